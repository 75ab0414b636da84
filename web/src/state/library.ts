/** The conversations: the list of all, and those that are open. */

import { signal } from "@preact/signals";
import { newId, newTime } from "../conversation/identity";
import type { Conversation, Settings } from "../conversation/message";
import type { Database, StoredConversation } from "../storage/database";
import { Talk } from "./talk";

export class Library {
  /** Every conversation that holds a message, the one last used first. */
  readonly list = signal<Conversation[]>([]);
  /** The conversation that is shown; null for one that has not begun. */
  readonly open = signal<Talk | null>(null);
  /** Settings for the conversation that has not begun. */
  readonly draft = signal<Settings>({});
  private readonly talks = new Map<string, Talk>();

  /** `onUnsaved` is called when the browser could not save something: its storage is full, or was taken away. */
  constructor(
    private readonly database: Database | null,
    private readonly onUnsaved: () => void,
  ) {}

  async load(): Promise<void> {
    if (this.database) {
      this.list.value = await this.database.conversations();
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
    this.draft.value = {};
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
    const talk = this.keep({ conversation, messages: [] });
    this.open.value = talk;
    this.draft.value = {};
    return talk;
  }

  async rename(id: string, title: string): Promise<void> {
    (this.talks.get(id) ?? (await this.fetch(id)))?.rename(title.trim() || "Untitled");
  }

  /** Delete a conversation. Returns a function that brings it back. */
  async remove(id: string): Promise<() => Promise<void>> {
    const stored = await this.stored(id);
    this.talks.get(id)?.close();
    this.talks.delete(id);
    this.list.value = this.list.value.filter((conversation) => conversation.id !== id);
    if (this.open.value?.id === id) {
      this.showNew();
    }
    await this.database?.delete(id);
    return async () => {
      if (stored) {
        await this.restore([stored]);
      }
    };
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
  async restore(conversations: readonly StoredConversation[]): Promise<void> {
    for (const stored of conversations) {
      await this.database?.save(stored);
      this.keep(stored);
      this.changed(stored.conversation);
    }
  }

  /** The ids of the conversations that contain `query`. */
  async search(query: string): Promise<Set<string>> {
    this.saveAll();
    if (this.database) {
      return this.database.search(query);
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
    return stored ? this.keep(stored) : null;
  }

  private keep(stored: StoredConversation): Talk {
    const talk = new Talk(stored, this.database, (conversation) => this.changed(conversation), this.onUnsaved);
    this.talks.set(talk.id, talk);
    return talk;
  }

  private changed(conversation: Conversation): void {
    if (!this.talks.has(conversation.id)) {
      return; // deleted while its last reply was still coming in
    }
    const others = this.list.value.filter(({ id }) => id !== conversation.id);
    this.list.value = [...others, conversation].sort((a, b) => b.updatedAt - a.updatedAt);
  }
}

const TITLE_LENGTH = 60;

/** The first words of a text, as a title. */
export function titleOf(text: string): string {
  const line = text.trim().replace(/\s+/g, " ");
  if (line.length <= TITLE_LENGTH) {
    return line;
  }
  const cut = line.slice(0, TITLE_LENGTH);
  return `${cut.slice(0, Math.max(cut.lastIndexOf(" "), TITLE_LENGTH / 2))}…`;
}
