/**
 * The tree of a conversation's messages: every edit and every new reply is a branch, and one path is shown.
 *
 * Functions of plain data; nothing here changes what it is given.
 */

import type { Message } from "./message";

export type Messages = ReadonlyMap<string, Message>;
export type Chosen = Readonly<Record<string, string>>;

/** The key under which the choice at the beginning of a conversation is kept. */
export const BEGINNING = "";

/** What follows `parent` (null: what the conversation begins with), oldest first. */
export function childrenOf(messages: Messages, parent: string | null): Message[] {
  return [...messages.values()]
    .filter((message) => message.parent === parent)
    .sort((a, b) => a.createdAt - b.createdAt);
}

/** The messages that are shown: from the beginning along the chosen branches, else along the newest. */
export function shownPath(messages: Messages, chosen: Chosen): Message[] {
  const byParent = new Map<string, Message[]>();
  for (const message of messages.values()) {
    const key = message.parent ?? BEGINNING;
    byParent.set(key, [...(byParent.get(key) ?? []), message]);
  }
  const path: Message[] = [];
  for (let key = BEGINNING; ; ) {
    const options = byParent.get(key);
    if (!options) {
      return path;
    }
    const next =
      options.find((option) => option.id === chosen[key]) ??
      options.reduce((newest, option) => (option.createdAt > newest.createdAt ? option : newest));
    path.push(next);
    key = next.id;
  }
}

/** The messages from the beginning up to and with `id`. */
export function pathTo(messages: Messages, id: string): Message[] {
  const path: Message[] = [];
  for (let next = messages.get(id); next; next = next.parent === null ? undefined : messages.get(next.parent)) {
    path.unshift(next);
  }
  return path;
}

/** The choice that leads to `id`, to be merged into what was chosen. */
export function choiceOf(message: Message): Record<string, string> {
  return { [message.parent ?? BEGINNING]: message.id };
}

/** The replies that were made at once with `id`, itself among them, as they were asked for. */
export function roundOf(messages: Messages, id: string): string[] {
  const message = messages.get(id);
  if (message?.role !== "assistant" || message.round === undefined) {
    return [id];
  }
  return childrenOf(messages, message.parent)
    .filter((other) => other.role === "assistant" && other.round === message.round)
    .map((other) => other.id);
}

/** `id` and all that follows it in any branch. */
export function withDescendants(messages: Messages, id: string): string[] {
  const found = [id];
  for (const next of found) {
    found.push(...childrenOf(messages, next).map((child) => child.id));
  }
  return found;
}
