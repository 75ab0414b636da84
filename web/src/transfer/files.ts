/** Files out of the page and into it. */

import type { StoredConversation } from "../storage/database";
import { fromJson, ImportError, toJson } from "./json";
import { fromMarkdown, toMarkdown } from "./markdown";

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

function save(name: string, content: string, format: Format): void {
  const type = format === "json" ? "application/json" : "text/markdown";
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
  for (const file of await chooseFiles()) {
    const text = await file.text();
    const within: string[] = [];
    try {
      const isJson = file.name.toLowerCase().endsWith(".json");
      conversations.push(...(isJson ? fromJson(text, (what) => within.push(what)) : [fromMarkdown(text)]));
      leftOut.push(...within);
    } catch (error) {
      if (!(error instanceof ImportError)) {
        throw error;
      }
      leftOut.push(`${file.name}: ${error.message}`);
    }
  }
  return { conversations, leftOut };
}

function chooseFiles(): Promise<File[]> {
  return new Promise((resolve) => {
    const input = document.createElement("input");
    input.type = "file";
    input.accept = ".json,.md";
    input.multiple = true;
    input.addEventListener("change", () => resolve([...(input.files ?? [])]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}
