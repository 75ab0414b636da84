/**
 * Conversations in the browser's IndexedDB. Nothing in here leaves the machine.
 *
 * A message is stored by itself, so that saving while a reply streams writes that reply and nothing else. Several tabs
 * may have one conversation open: what changes in its record is merged into what is stored, and nothing is written to
 * a conversation that another tab has deleted.
 */

import { openDB, type DBSchema, type IDBPDatabase } from "idb";
import type { Conversation, Message, Settings } from "../conversation/message";
import { plainText } from "../conversation/message";

interface Schema extends DBSchema {
  conversations: { key: string; value: Conversation };
  messages: { key: string; value: Message; indexes: { conversation: string } };
}

/** A conversation whole, as it is exported, deleted and restored. */
export interface StoredConversation {
  conversation: Conversation;
  messages: Message[];
}

/** What is new in a conversation's record; a setting that is undefined is no longer set. */
export interface ConversationChange {
  title?: string;
  updatedAt?: number;
  pinned?: boolean;
  settings?: { [Name in keyof Settings]: Settings[Name] | undefined };
  chosen?: Record<string, string>;
}

/** A conversation's record with a change in it. */
export function changed(conversation: Conversation, change: ConversationChange): Conversation {
  const { title, updatedAt, pinned, settings, chosen } = change;
  const all = Object.entries({ ...conversation.settings, ...settings });
  return {
    ...conversation,
    ...(title !== undefined && { title }),
    ...(pinned !== undefined && { pinned }),
    updatedAt: Math.max(conversation.updatedAt, updatedAt ?? 0),
    settings: Object.fromEntries(all.filter(([, value]) => value !== undefined)) as Settings,
    chosen: { ...conversation.chosen, ...chosen },
  };
}

export class Database {
  private constructor(private readonly db: IDBPDatabase<Schema>) {}

  /** Open or make the database. Throws where the browser allows none (some private windows). */
  static async open(name = "chatsmith"): Promise<Database> {
    const db = await openDB<Schema>(name, 1, {
      upgrade(fresh) {
        fresh.createObjectStore("conversations", { keyPath: "id" });
        fresh.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
      },
    });
    return new Database(db);
  }

  async conversations(): Promise<Conversation[]> {
    return this.db.getAll("conversations");
  }

  async messages(conversation: string): Promise<Message[]> {
    return this.db.getAllFromIndex("messages", "conversation", conversation);
  }

  async load(id: string): Promise<StoredConversation | null> {
    const conversation = await this.db.get("conversations", id);
    return conversation ? { conversation, messages: await this.messages(id) } : null;
  }

  async saveConversation(conversation: Conversation): Promise<void> {
    await this.db.put("conversations", conversation);
  }

  async conversation(id: string): Promise<Conversation | null> {
    return (await this.db.get("conversations", id)) ?? null;
  }

  async message(id: string): Promise<Message | null> {
    return (await this.db.get("messages", id)) ?? null;
  }

  /** Merge a change into what is stored. Returns whether the conversation is there. */
  async changeConversation(id: string, change: ConversationChange): Promise<boolean> {
    const work = this.db.transaction("conversations", "readwrite");
    const stored = await work.store.get(id);
    if (stored) {
      void work.store.put(changed(stored, change));
    }
    await work.done;
    return stored !== undefined;
  }

  /** Save a message of a conversation. Returns whether that is there; if not, nothing is saved. */
  async saveMessage(message: Message): Promise<boolean> {
    const change = this.db.transaction(["conversations", "messages"], "readwrite");
    const key = await change.objectStore("conversations").getKey(message.conversation);
    if (key !== undefined) {
      void change.objectStore("messages").put(message);
    }
    await change.done;
    return key !== undefined;
  }

  /** Save a message while the page closes: everything is handed to the browser before this returns. */
  async saveMessageAtOnce(message: Message): Promise<void> {
    const change = this.db.transaction("messages", "readwrite");
    void change.store.put(message);
    change.commit();
    await change.done;
  }

  /** Save conversations whole, all of them or none. */
  async save(...conversations: readonly StoredConversation[]): Promise<void> {
    const change = this.db.transaction(["conversations", "messages"], "readwrite");
    for (const { conversation, messages } of conversations) {
      void change.objectStore("conversations").put(conversation);
      for (const message of messages) {
        void change.objectStore("messages").put(message);
      }
    }
    await change.done;
  }

  async deleteMessages(ids: readonly string[]): Promise<void> {
    const change = this.db.transaction("messages", "readwrite");
    await Promise.all([...ids.map((id) => change.store.delete(id)), change.done]);
  }

  /** Delete a conversation with all its messages, or nothing. */
  async delete(id: string): Promise<void> {
    const change = this.db.transaction(["conversations", "messages"], "readwrite");
    const keys = await change.objectStore("messages").index("conversation").getAllKeys(id);
    await Promise.all([
      change.objectStore("conversations").delete(id),
      ...keys.map((key) => change.objectStore("messages").delete(key)),
      change.done,
    ]);
  }

  /** The ids of the conversations (of some, if `signal` is aborted) in which a title or a message contains `query`, in any branch. */
  async search(query: string, signal?: AbortSignal): Promise<Set<string>> {
    const sought = query.toLocaleLowerCase();
    const found = new Set<string>();
    for (const conversation of await this.db.getAll("conversations")) {
      if (conversation.title.toLocaleLowerCase().includes(sought)) {
        found.add(conversation.id);
      }
    }
    let cursor = await this.db.transaction("messages").store.openCursor();
    while (cursor && !signal?.aborted) {
      const message = cursor.value;
      if (!found.has(message.conversation) && plainText(message).toLocaleLowerCase().includes(sought)) {
        found.add(message.conversation);
      }
      cursor = await cursor.continue();
    }
    return found;
  }
}
