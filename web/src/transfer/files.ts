/** Files out of the page and into it. */

import { t } from "../messages/language";
import type { StoredConversation } from "../storage/database";
import { fromJson, ImportError, toJson } from "./json";
import { fromMarkdown, toMarkdown } from "./markdown";
import { toJsonLines } from "./training";

export type Format = "json" | "md";

/** Hand a conversation to the person as a file. */
export function exportConversation(stored: StoredConversation, format: Format): void {
  const name = stored.conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 50);
  const content = format === "json" ? toJson([stored]) : toMarkdown(stored);
  save(`${name || "conversation"}.${format}`, content, format);
}

/** Hand all conversations to the person as one file. */
export function exportAll(conversations: readonly StoredConversation[]): void {
  save(`chatsmith-${new Date().toISOString().slice(0, 10)}.json`, toJson(conversations), "json");
}

/** Hand records to the person as a file of JSON lines. */
export function saveLines(name: string, lines: readonly Record<string, unknown>[]): void {
  save(name, toJsonLines(lines), "jsonl");
}

const TYPES = { json: "application/json", jsonl: "application/jsonl", md: "text/markdown" };

function save(name: string, content: string, format: keyof typeof TYPES): void {
  const type = TYPES[format];
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export interface Chosen {
  conversations: StoredConversation[];
  /** What was in the files and could not be taken, in words. */
  leftOut: string[];
}

/** Let the person choose files, and read the conversations in them. */
export async function chooseConversations(): Promise<Chosen> {
  const conversations: StoredConversation[] = [];
  const leftOut: string[] = [];
  for (const file of await chooseFiles(".json,.jsonl,.md")) {
    const text = await file.text();
    const within: string[] = [];
    try {
      const isJson = /\.jsonl?$/i.test(file.name);
      conversations.push(...(isJson ? fromJson(text, (what) => within.push(what)) : [fromMarkdown(text)]));
      leftOut.push(...within);
    } catch (error) {
      if (!(error instanceof ImportError)) {
        throw error;
      }
      leftOut.push(t.files.file(file.name, error.message));
    }
  }
  return { conversations, leftOut };
}

const MOST_BYTES = 8_000_000;

/** The text of a file; null if it is none, or too long. */
export async function readTextFile(file: File): Promise<string | null> {
  if (file.size > MOST_BYTES) {
    return null;
  }
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

export function chooseFiles(accept: string): Promise<File[]> {
  return new Promise((resolve) => {
    const input = document.createElement("input");
    input.type = "file";
    input.accept = accept;
    input.multiple = true;
    input.addEventListener("change", () => resolve([...(input.files ?? [])]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}
