/**
 * A conversation that is open: its messages as signals, so that a reply that grows redraws itself and nothing else.
 *
 * Every change is saved. Database may be null where the browser allows none; then nothing outlives the page.
 */

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { childrenOf, choiceOf, roundOf, shownPath, withDescendants } from "../conversation/branches";
import { newTime } from "../conversation/identity";
import { isRunning, type Conversation, type Message, type Problem, type Reply, type Settings } from "../conversation/message";
import { t } from "../messages/language";
import { changed, type ConversationChange, type Database, type StoredConversation } from "../storage/database";

const SAVE_MILLISECONDS = 500;

/** What a conversation tells those who hold it. */
export interface TalkListener {
  /** The list of conversations has to show something new. */
  changed: (conversation: Conversation) => void;
  /** The record was saved, or these messages were saved or deleted. */
  saved: (what: "record" | string[]) => void;
  /** Something could not be saved. */
  unsaved: () => void;
  /** Another tab has deleted it. */
  gone: () => void;
}

export class Talk {
  readonly conversation: Signal<Conversation>;
  /** The messages that are shown, by id. */
  readonly path: ReadonlySignal<string[]>;
  private readonly messages: Map<string, Signal<Message>>;
  private readonly shape = signal(0);
  private readonly unsaved = new Map<string, ReturnType<typeof setTimeout>>();

  /** Messages that are not known to be in the database as they are here. */
  private readonly unconfirmed = new Set<string>();
  private readonly underWay = new Set<Promise<unknown>>();
  /** Grows with every change made here. */
  private numChanges = 0;

  constructor(
    stored: StoredConversation,
    private database: Database | null,
    private readonly listener: TalkListener,
    /** Whether the conversation is in the database: if not, it is yet to be saved. */
    public isStored: boolean,
  ) {
    this.conversation = signal(stored.conversation);
    this.messages = new Map(stored.messages.map((message) => [message.id, signal(message)]));
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

  /** The branches that lead on from where `id` stands, itself among them, of each round one; oldest first. */
  branchesAt(id: string): string[] {
    void this.shape.value;
    const all = this.all();
    const parent = all.get(id)?.parent;
    const seen = new Set(roundOf(all, id));
    return childrenOf(all, parent ?? null)
      .filter((message) => {
        const isNew = message.id === id || !seen.has(message.id);
        roundOf(all, message.id).forEach((other) => seen.add(other));
        return isNew;
      })
      .map((message) => message.id);
  }

  /** The replies that stand side by side with `id`, itself among them. */
  roundOf(id: string): string[] {
    void this.shape.value;
    const message = this.messages.get(id)?.peek();
    return message?.role === "assistant" && message.round !== undefined ? roundOf(this.all(), id) : [id];
  }

  /** Write down a conversation that has just begun. */
  create(): void {
    this.inDatabase(async (database) => {
      await database.saveConversation(this.conversation.peek());
      this.isStored = true;
      this.listener.saved("record");
    });
  }

  add(message: Message): void {
    this.messages.set(message.id, signal(message));
    this.shape.value += 1;
    this.change({ chosen: choiceOf(message), updatedAt: newTime() });
    this.save(message.id);
  }

  choose(id: string): void {
    const message = this.messages.get(id)!.peek();
    this.change({ chosen: choiceOf(message) });
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
    const ids = removed.map((message) => message.peek().id);
    this.inDatabase(async (database) => {
      await database.deleteMessages(ids);
      this.listener.saved(ids);
    });
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
    this.change({ title });
  }

  pin(pinned: boolean): void {
    this.change({ pinned });
  }

  setSettings(settings: Settings): void {
    const unset = Object.keys(this.conversation.peek().settings).map((name) => [name, undefined]);
    const all = { ...Object.fromEntries(unset), ...settings } as Settings;
    const before = this.conversation.peek().settings;
    // Only what changes: another tab may have changed something else.
    const names = (Object.keys(all) as (keyof Settings)[]).filter((name) => all[name] !== before[name]);
    this.change({ settings: Object.fromEntries(names.map((name) => [name, all[name]])) });
  }

  /** Everything, as it is stored. */
  stored(): StoredConversation {
    return { conversation: this.conversation.peek(), messages: [...this.all().values()] };
  }

  /** Write down a message now, whole. */
  save(id: string): void {
    clearTimeout(this.unsaved.get(id));
    this.unsaved.delete(id);
    const message = this.messages.get(id)?.peek();
    if (message) {
      this.write(message);
    }
  }

  /** Write down whatever is not yet: the page may be about to close. */
  saveAll(): void {
    for (const [id, timer] of this.unsaved) {
      clearTimeout(timer);
      const message = this.messages.get(id)?.peek();
      if (message) {
        this.inDatabase((database) => database.saveMessageAtOnce(message));
      }
    }
    this.unsaved.clear();
  }

  /** Until everything that is being saved is saved. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.underWay]);
  }

  /** Whether the message is here only, or newer here than in the database. */
  isAhead(id: string): boolean {
    return this.unsaved.has(id) || this.unconfirmed.has(id);
  }

  /** A number that is another one after each change made here. */
  get version(): number {
    return this.numChanges;
  }

  /** Take over the record as another tab has left it. Which branches are shown stays as it is here. */
  takeRecord(stored: Conversation): void {
    const here = this.conversation.peek();
    this.conversation.value = { ...stored, chosen: { ...stored.chosen, ...here.chosen } };
    this.listener.changed(this.conversation.peek());
  }

  /** Take over a message as another tab has left it; null: it was deleted, with all that follows it. */
  takeMessage(id: string, message: Message | null): void {
    const here = this.messages.get(id);
    if (this.isAhead(id)) {
      return; // newer here
    }
    if (message && here) {
      here.value = message;
    } else if (message) {
      this.messages.set(id, signal(message));
      this.shape.value += 1;
    } else if (here) {
      for (const each of withDescendants(this.all(), id)) {
        clearTimeout(this.unsaved.get(each));
        this.unsaved.delete(each);
        this.messages.delete(each);
      }
      this.shape.value += 1;
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
      this.write(isGrowing ? { ...message, tokens: [] } : message);
    }
  }

  private write(message: Message): void {
    this.unconfirmed.add(message.id);
    this.inDatabase(async (database) => {
      if (await database.saveMessage(message)) {
        this.unconfirmed.delete(message.id);
        this.listener.saved([message.id]);
      } else {
        await this.missing(database);
      }
    });
  }

  private change(change: ConversationChange): void {
    this.numChanges += 1;
    this.conversation.value = changed(this.conversation.peek(), change);
    this.inDatabase(async (database) => {
      if (await database.changeConversation(this.id, change)) {
        this.isStored = true;
        this.listener.saved("record");
      } else {
        await this.missing(database);
      }
    });
    this.listener.changed(this.conversation.peek());
  }

  /** The conversation is not in the database: it was deleted there, or never got into it. */
  private async missing(database: Database): Promise<void> {
    if (this.isStored) {
      this.listener.gone();
    } else {
      await database.save(this.stored());
      this.isStored = true;
      this.unconfirmed.clear();
      this.listener.saved("record");
    }
  }

  private inDatabase(work: (database: Database) => Promise<void>): void {
    if (this.database) {
      const saving: Promise<void> = work(this.database)
        .catch(this.listener.unsaved)
        .finally(() => this.underWay.delete(saving));
      this.underWay.add(saving);
    }
  }
}

export function pageClosed(): Problem {
  return { kind: "lost", message: t.problem.pageClosed };
}

/** A stored reply that was being written when the page closed has lost its end. */
export function interrupted(message: Message): Message {
  if (message.role !== "assistant" || !isRunning(message)) {
    return message;
  }
  return { ...message, state: "lost", problem: pageClosed() };
}
