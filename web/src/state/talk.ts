/**
 * A conversation that is open: its messages as signals, so that a reply that grows redraws itself and nothing else.
 *
 * Every change is saved. Database may be null where the browser allows none; then nothing outlives the page.
 */

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { choiceOf, shownPath, withDescendants } from "../conversation/branches";
import { newTime } from "../conversation/identity";
import { isRunning, type Conversation, type Message, type Reply, type Settings } from "../conversation/message";
import type { Database, StoredConversation } from "../storage/database";

const SAVE_MILLISECONDS = 500;

export class Talk {
  readonly conversation: Signal<Conversation>;
  /** The messages that are shown, by id. */
  readonly path: ReadonlySignal<string[]>;
  private readonly messages: Map<string, Signal<Message>>;
  private readonly shape = signal(0);
  private readonly unsaved = new Map<string, ReturnType<typeof setTimeout>>();

  constructor(
    stored: StoredConversation,
    private database: Database | null,
    /** Called whenever the list of conversations has to show something new. */
    private readonly onChange: (conversation: Conversation) => void,
    /** Called when something could not be saved. */
    private readonly onUnsaved: () => void,
  ) {
    this.conversation = signal(stored.conversation);
    this.messages = new Map(stored.messages.map((message) => [message.id, signal(interrupted(message))]));
    this.path = computed(() => {
      void this.shape.value;
      return shownPath(this.all(), this.conversation.value.chosen).map((message) => message.id);
    });
  }

  get id(): string {
    return this.conversation.peek().id;
  }

  /** All messages of all branches, as they are now. */
  all(): Map<string, Message> {
    return new Map([...this.messages].map(([id, message]) => [id, message.peek()]));
  }

  message(id: string): Signal<Message> | undefined {
    return this.messages.get(id);
  }

  reply(id: string): Reply {
    const message = this.messages.get(id)?.peek();
    if (message?.role !== "assistant") {
      throw new Error(`no reply ${id}`);
    }
    return message;
  }

  /** The messages shown, as they are now. */
  shown(): Message[] {
    return this.path.value.map((id) => this.messages.get(id)!.peek());
  }

  /** The branches that lead on from where `id` stands, itself among them; oldest first. */
  branchesAt(id: string): string[] {
    void this.shape.value;
    const parent = this.messages.get(id)?.peek().parent;
    return [...this.messages.values()]
      .map((message) => message.peek())
      .filter((message) => message.parent === parent)
      .sort((a, b) => a.createdAt - b.createdAt)
      .map((message) => message.id);
  }

  add(message: Message): void {
    this.messages.set(message.id, signal(message));
    this.shape.value += 1;
    this.change({ chosen: { ...this.conversation.peek().chosen, ...choiceOf(message) } });
    this.save(message.id);
  }

  choose(id: string): void {
    const message = this.messages.get(id)!.peek();
    this.change({ chosen: { ...this.conversation.peek().chosen, ...choiceOf(message) } }, false);
  }

  update(id: string, change: Partial<Reply>): void {
    const message = this.messages.get(id);
    if (message) {
      message.value = { ...message.peek(), ...change } as Message;
      this.planSave(id);
    }
  }

  /** Delete a message with all that follows it. Returns a function that brings it all back. */
  remove(id: string): () => void {
    const removed = withDescendants(this.all(), id).map((each) => this.messages.get(each)!);
    for (const message of removed) {
      clearTimeout(this.unsaved.get(message.peek().id));
      this.messages.delete(message.peek().id);
    }
    this.shape.value += 1;
    this.inDatabase((database) => database.deleteMessages(removed.map((message) => message.peek().id)));
    return () => {
      for (const message of removed) {
        this.messages.set(message.peek().id, message);
        this.save(message.peek().id);
      }
      this.shape.value += 1;
      this.choose(id);
    };
  }

  rename(title: string): void {
    this.change({ title }, false);
  }

  setSettings(settings: Settings): void {
    this.change({ settings }, false);
  }

  /** Everything, as it is stored. */
  stored(): StoredConversation {
    return { conversation: this.conversation.peek(), messages: [...this.all().values()] };
  }

  /** Write down a message now, whole. */
  save(id: string): void {
    clearTimeout(this.unsaved.get(id));
    this.unsaved.delete(id);
    const message = this.messages.get(id);
    if (message) {
      this.inDatabase((database) => database.saveMessage(message.peek()));
    }
  }

  /** Write down whatever is not yet: the page may be about to close. */
  saveAll(): void {
    for (const id of [...this.unsaved.keys()]) {
      this.save(id);
    }
  }

  /** Save nothing from now on: the conversation is being deleted. */
  close(): void {
    this.unsaved.forEach((timer) => clearTimeout(timer));
    this.unsaved.clear();
    this.database = null;
  }

  private planSave(id: string): void {
    if (!this.unsaved.has(id)) {
      this.unsaved.set(
        id,
        setTimeout(() => this.saveUnfinished(id), SAVE_MILLISECONDS),
      );
    }
  }

  /** Write down a message that still changes: a reply without its tokens, which would take long to copy so often. */
  private saveUnfinished(id: string): void {
    this.unsaved.delete(id);
    const message = this.messages.get(id)?.peek();
    if (message) {
      const isGrowing = message.role === "assistant" && isRunning(message);
      this.inDatabase((database) => database.saveMessage(isGrowing ? { ...message, tokens: [] } : message));
    }
  }

  private inDatabase(work: (database: Database) => Promise<void>): void {
    if (this.database) {
      work(this.database).catch(this.onUnsaved);
    }
  }

  private change(change: Partial<Conversation>, isUse = true): void {
    const updatedAt = isUse ? { updatedAt: newTime() } : {};
    this.conversation.value = { ...this.conversation.peek(), ...change, ...updatedAt };
    this.inDatabase((database) => database.saveConversation(this.conversation.peek()));
    this.onChange(this.conversation.peek());
  }
}

/** A stored reply that was being written when the page closed has lost its end. */
function interrupted(message: Message): Message {
  if (message.role !== "assistant" || !isRunning(message)) {
    return message;
  }
  const problem = { kind: "lost", message: "The page was closed in the middle of this reply." } as const;
  return { ...message, state: "lost", problem };
}
