/** The conversations: the list of all, and those that are open. */

import { signal } from "@preact/signals";
import { plainTitle } from "../conversation/direction";
import { newId, newTime } from "../conversation/identity";
import { isRunning, type Conversation, type Message, type Settings } from "../conversation/message";
import type { Database, StoredConversation } from "../storage/database";
import { Tabs, type News } from "./tabs";
import { standardSettings } from "./presets";
import { interrupted, Talk } from "./talk";

/** How often a tab makes sure that the one which writes a reply is still there. */
const ALIVE_MILLISECONDS = 3_000;

/** So many conversations are saved before the page shows how far it is. */
const AT_ONCE = 50;

/** What the list of conversations needs from the rest of the page. */
export interface LibraryListener {
  /** The browser could not save something: its storage is full, or was taken away. */
  unsaved: () => void;
  /** Another tab has deleted the conversation that is shown here. */
  gone: (id: string) => void;
  /** Whether a reply is being written in this tab. */
  isWriting: (reply: string) => boolean;
  stop: (reply: string) => void;
}

export class Library {
  /** Every conversation that holds a message, the one last used first. */
  readonly list = signal<Conversation[]>([]);
  /** The conversation that is shown; null for one that has not begun. */
  readonly open = signal<Talk | null>(null);
  /** Settings for the conversation that has not begun. */
  readonly draft = signal<Settings>(standardSettings());
  /** Replies that another tab is writing. */
  readonly elsewhere = signal<ReadonlySet<string>>(new Set());
  private readonly talks = new Map<string, Talk>();
  private readonly tabs = new Tabs();

  constructor(
    private readonly database: Database | null,
    private readonly listener: LibraryListener,
  ) {
    if (database) {
      this.tabs.onNews = (news) => void this.onNews(news, database);
      setInterval(() => void this.checkElsewhere(database), ALIVE_MILLISECONDS);
    }
  }

  async load(): Promise<void> {
    if (this.database) {
      const stored = await this.database.conversations();
      const onlyHere = [...this.talks.values()].filter((talk) => !talk.isStored).map((talk) => talk.conversation.peek());
      const ids = new Set(stored.map(({ id }) => id));
      this.list.value = inOrder([...onlyHere.filter(({ id }) => !ids.has(id)), ...stored]);
    }
  }

  /** Show a conversation. Returns whether there is one of that id. */
  async show(id: string): Promise<boolean> {
    const talk = this.talks.get(id) ?? (await this.fetch(id));
    this.open.value = talk;
    return talk !== null;
  }

  /** Show the conversation that has not begun, with the settings that the shown one departs from. */
  showNew(): void {
    this.open.value = null;
    this.draft.value = standardSettings();
  }

  /** Begin a conversation; its first message gives it its title. */
  begin(text: string): Talk {
    const now = newTime();
    const conversation: Conversation = {
      id: newId(),
      title: titleOf(text),
      createdAt: now,
      updatedAt: now,
      settings: this.draft.value,
      chosen: {},
    };
    const talk = this.keep({ conversation, messages: [] }, false);
    talk.create();
    this.open.value = talk;
    this.draft.value = standardSettings();
    return talk;
  }

  async rename(id: string, title: string): Promise<void> {
    (this.talks.get(id) ?? (await this.fetch(id)))?.rename(plainTitle(title));
  }

  async pin(id: string, pinned: boolean): Promise<void> {
    (this.talks.get(id) ?? (await this.fetch(id)))?.pin(pinned);
  }

  /** Delete conversations. Returns a function that brings them back. */
  async remove(ids: readonly string[]): Promise<() => Promise<void>> {
    const stored = (await Promise.all(ids.map((id) => this.stored(id)))).filter((each) => each !== null);
    for (const id of ids) {
      this.forget(id);
      await this.database?.delete(id);
      this.tabs.tell({ kind: "deleted", id });
    }
    return () => this.restore(stored);
  }

  /** A conversation whole, for export. */
  async stored(id: string): Promise<StoredConversation | null> {
    return this.talks.get(id)?.stored() ?? (await this.database?.load(id)) ?? null;
  }

  /** Every conversation whole, for export. */
  async everything(): Promise<StoredConversation[]> {
    const all = await Promise.all(this.list.value.map(({ id }) => this.stored(id)));
    return all.filter((stored) => stored !== null);
  }

  /** Take in conversations that were imported, or deleted a moment ago. */
  async restore(conversations: readonly StoredConversation[], onProgress?: (done: number) => void): Promise<void> {
    for (let done = 0; done < conversations.length; done += AT_ONCE) {
      if (conversations.length > AT_ONCE) {
        onProgress?.(done);
      }
      const some = conversations.slice(done, done + AT_ONCE);
      try {
        await this.database?.save(...some);
      } catch {
        this.listener.unsaved();
        some.forEach((stored) => this.keep(stored, false));
      }
      if (!this.database) {
        some.forEach((stored) => this.keep(stored, true));
      }
    }
    const restored = conversations.map(({ conversation }) => conversation);
    const ids = new Set(restored.map(({ id }) => id));
    this.list.value = inOrder([...this.list.value.filter(({ id }) => !ids.has(id)), ...restored]);
    this.tabs.tell({ kind: "list" });
  }

  /** Have a reply stopped that another tab is writing. */
  stopElsewhere(reply: string): void {
    this.tabs.tell({ kind: "stop", id: reply });
  }

  /** Read anew what other tabs may have changed while this one heard of nothing. */
  async refresh(): Promise<void> {
    const { database } = this;
    if (!database) {
      return;
    }
    await this.load();
    for (const [id, talk] of this.talks) {
      await talk.settled();
      const version = talk.version;
      const stored = await database.load(id);
      if (!stored) {
        if (talk.isStored) {
          this.gone(id);
        }
        continue;
      }
      const there = new Map(stored.messages.map((message) => [message.id, message]));
      if (talk.version !== version) {
        continue; // in use here, and so told of what changes
      }
      await this.takeMessages(talk, [...new Set([...there.keys(), ...talk.all().keys()])], there);
      talk.takeRecord(stored.conversation);
    }
  }

  /** The ids of the conversations that contain `query`. */
  async search(query: string, signal?: AbortSignal): Promise<Set<string>> {
    this.saveAll();
    if (this.database) {
      return this.database.search(query, signal);
    }
    const sought = query.toLocaleLowerCase();
    const found = this.list.value.filter(({ title }) => title.toLocaleLowerCase().includes(sought));
    return new Set(found.map(({ id }) => id));
  }

  /** Write down whatever is not yet. */
  saveAll(): void {
    for (const talk of this.talks.values()) {
      talk.saveAll();
    }
  }

  private async fetch(id: string): Promise<Talk | null> {
    const stored = await this.database?.load(id);
    if (!stored) {
      return null;
    }
    const running = stored.messages.filter(isRunning).map((message) => message.id);
    const written = await this.tabs.writing(running);
    this.elsewhere.value = new Set([...this.elsewhere.peek(), ...written]);
    const messages = stored.messages.map((message) => (written.has(message.id) ? message : interrupted(message)));
    return this.talks.get(id) ?? this.keep({ ...stored, messages }, true);
  }

  private keep(stored: StoredConversation, isStored: boolean): Talk {
    const { id } = stored.conversation;
    const talk = new Talk(
      stored,
      this.database,
      {
        changed: (conversation) => this.changed(conversation),
        saved: (what) => this.tabs.tell(what === "record" ? { kind: "conversation", id } : { kind: "messages", conversation: id, ids: what }),
        unsaved: this.listener.unsaved,
        gone: () => this.gone(id),
      },
      isStored,
    );
    this.talks.set(id, talk);
    return talk;
  }

  private forget(id: string): void {
    this.talks.get(id)?.close();
    this.talks.delete(id);
    this.list.value = this.list.value.filter((conversation) => conversation.id !== id);
    if (this.open.value?.id === id) {
      this.showNew();
    }
  }

  /** Another tab has deleted a conversation. */
  private gone(id: string): void {
    const isOpen = this.open.value?.id === id;
    [...(this.talks.get(id)?.all().keys() ?? [])].forEach(this.listener.stop);
    this.forget(id);
    if (isOpen) {
      this.listener.gone(id);
    }
  }

  private async onNews(news: News, database: Database): Promise<void> {
    switch (news.kind) {
      case "conversation":
        await this.takeRecord(news.id, database);
        break;
      case "messages": {
        const talk = this.talks.get(news.conversation);
        if (talk) {
          const read = await Promise.all(news.ids.map((id) => database.message(id)));
          await this.takeMessages(talk, news.ids, new Map(read.flatMap((message) => (message ? [[message.id, message]] : []))));
        }
        break;
      }
      case "deleted":
        this.gone(news.id);
        break;
      case "list":
        await this.load();
        break;
      case "who": {
        const ids = news.ids.filter(this.listener.isWriting);
        if (ids.length > 0) {
          this.tabs.tell({ kind: "writing", ids });
        }
        break;
      }
      case "stop":
        this.listener.stop(news.id);
    }
  }

  private async takeRecord(id: string, database: Database): Promise<void> {
    const version = this.talks.get(id)?.version;
    const stored = await database.conversation(id);
    const talk = this.talks.get(id);
    if (talk && talk.version !== version) {
      await this.takeRecord(id, database); // changed here in the meantime: what was read may be of before
    } else if (talk && stored) {
      talk.takeRecord(stored);
    } else if (stored) {
      this.entry(stored);
    }
  }

  /** Take over messages as another tab has left them; one that is not in `there` was deleted. */
  private async takeMessages(talk: Talk, ids: readonly string[], there: ReadonlyMap<string, Message>): Promise<void> {
    const elsewhere = new Set(this.elsewhere.peek());
    for (const id of ids) {
      const message = there.get(id) ?? null;
      if (this.listener.isWriting(id)) {
        if (message === null && !talk.isAhead(id)) {
          this.listener.stop(id);
        }
        continue;
      }
      elsewhere.delete(id);
      if (message && isRunning(message)) {
        elsewhere.add(id);
      }
      talk.takeMessage(id, message);
    }
    this.elsewhere.value = elsewhere;
  }

  /** A tab that wrote a reply may have been closed. */
  private async checkElsewhere(database: Database): Promise<void> {
    const ids = [...this.elsewhere.peek()];
    const written = await this.tabs.writing(ids);
    for (const id of ids.filter((each) => !written.has(each))) {
      const message = await database.message(id);
      const talk = message && this.talks.get(message.conversation);
      if (talk && !this.listener.isWriting(id)) {
        talk.takeMessage(id, interrupted(message));
      }
      this.elsewhere.value = new Set([...this.elsewhere.peek()].filter((each) => each !== id));
    }
  }

  private changed(conversation: Conversation): void {
    if (this.talks.has(conversation.id)) {
      this.entry(conversation); // else deleted while its last reply was still coming in
    }
  }

  private entry(conversation: Conversation): void {
    const others = this.list.value.filter(({ id }) => id !== conversation.id);
    this.list.value = inOrder([...others, conversation]);
  }
}

/** Those that are pinned first, and the one last used first. */
function inOrder(conversations: Conversation[]): Conversation[] {
  return conversations.sort((a, b) => Number(b.pinned ?? false) - Number(a.pinned ?? false) || b.updatedAt - a.updatedAt);
}

const TITLE_LENGTH = 60;

/** The first words of a text, as a title. */
export function titleOf(text: string): string {
  const line = plainTitle(text);
  if (line.length <= TITLE_LENGTH) {
    return line;
  }
  const cut = line.slice(0, TITLE_LENGTH);
  return `${cut.slice(0, Math.max(cut.lastIndexOf(" "), TITLE_LENGTH / 2))}…`;
}
