/**
 * Conversations that other programs have exported, as those of this page: ChatGPT (conversations.json), Open WebUI,
 * the page of llama.cpp, and OpenAI's plain `messages`, one or many.
 *
 * Functions of parsed JSON. What they give is checked like any file of unknown origin.
 */

import { t } from "../messages/language";

/** A message as it was found. Times are in milliseconds since 1970. */
interface Found {
  id: string;
  parent: string | null;
  role: string;
  text: string;
  time: number | undefined;
  model: string | undefined;
}

interface FoundConversation {
  title: string | undefined;
  createdAt: number | undefined;
  updatedAt: number | undefined;
  messages: Found[];
  /** The last message of what was shown. */
  shown: string | undefined;
}

type Fields = Record<string, unknown>;

/** Conversations in the shape of this page's own files, or null if the value is of none of the known kinds. */
export function fromElsewhere(value: unknown): Fields[] | null {
  const entries = Array.isArray(value) ? (value as unknown[]) : [value];
  const isOneConversation = entries.length > 0 && entries.every((entry) => isMessage(entry));
  if (isOneConversation) {
    return [converted(fromMessages({ messages: entries }))];
  }
  const found = entries.map((entry) => readerOf(entry)?.(entry as Fields) ?? null);
  return found.every((each) => each === null) ? null : found.flatMap((each) => (each === null ? [] : [converted(each)]));
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isMessage(value: unknown): boolean {
  return isFields(value) && typeof value.role === "string" && "content" in value;
}

function readerOf(value: unknown): ((entry: Fields) => FoundConversation) | null {
  if (!isFields(value)) {
    return null;
  }
  if (isFields(value.mapping)) {
    return fromChatGpt;
  }
  if (isFields(value.chat) && isFields(value.chat.history)) {
    return fromOpenWebUi;
  }
  if (isFields(value.conv) && Array.isArray(value.messages)) {
    return fromLlamaCpp;
  }
  return Array.isArray(value.messages) && value.messages.every(isMessage) && !("conversation" in value) ? fromMessages : null;
}

/** https://help.openai.com/en/articles/7260999: a list of trees, times in seconds. */
function fromChatGpt(entry: Fields): FoundConversation {
  const messages = Object.entries(entry.mapping as Fields).map(([id, node]): Found => {
    const { parent, message } = isFields(node) ? node : {};
    const { author, content, create_time, metadata } = isFields(message) ? message : {};
    const isHidden = isFields(metadata) && metadata.is_visually_hidden_from_conversation === true;
    return {
      id,
      parent: text(parent) ?? null,
      role: isHidden ? "" : ((isFields(author) ? text(author.role) : undefined) ?? ""),
      text: isFields(content) && content.content_type === "text" ? contentText(content.parts) : "",
      time: seconds(create_time),
      model: isFields(metadata) ? text(metadata.model_slug) : undefined,
    };
  });
  return {
    title: text(entry.title),
    createdAt: seconds(entry.create_time),
    updatedAt: seconds(entry.update_time),
    messages,
    shown: text(entry.current_node),
  };
}

/** Open WebUI's "Export chats": times in seconds. */
function fromOpenWebUi(entry: Fields): FoundConversation {
  const chat = entry.chat as Fields;
  const history = chat.history as Fields;
  const messages = Object.entries(isFields(history.messages) ? history.messages : {}).map(([id, message]): Found => {
    const { parentId, role, content, timestamp, model } = isFields(message) ? message : {};
    const parent = text(parentId) ?? null;
    return { id, parent, role: text(role) ?? "", text: contentText(content), time: seconds(timestamp), model: text(model) };
  });
  return {
    title: text(entry.title) ?? text(chat.title),
    createdAt: seconds(entry.created_at),
    updatedAt: seconds(entry.updated_at),
    messages,
    shown: text(history.currentId),
  };
}

/** The page of llama-server: a conversation and its messages, times in milliseconds. */
function fromLlamaCpp(entry: Fields): FoundConversation {
  const conversation = entry.conv as Fields;
  const messages = (entry.messages as unknown[]).filter(isFields).map(
    ({ id, parent, role, content, timestamp, model, type }): Found => ({
      id: idOf(id) ?? "",
      parent: idOf(parent) ?? null,
      role: type === "root" ? "" : (text(role) ?? ""),
      text: contentText(content),
      time: number(timestamp),
      model: text(model),
    }),
  );
  const updatedAt = number(conversation.lastModified);
  return { title: text(conversation.name), createdAt: updatedAt, updatedAt, messages, shown: idOf(conversation.currNode) };
}

function fromMessages(entry: Fields): FoundConversation {
  const messages = (entry.messages as Fields[]).map(
    ({ role, content }, index): Found => ({
      id: `${index}`,
      parent: index === 0 ? null : `${index - 1}`,
      role: text(role) ?? "",
      text: contentText(content),
      time: undefined,
      model: undefined,
    }),
  );
  return { title: text(entry.title), createdAt: undefined, updatedAt: undefined, messages, shown: undefined };
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function number(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

function idOf(value: unknown): string | undefined {
  return typeof value === "number" ? String(value) : text(value);
}

function seconds(value: unknown): number | undefined {
  const found = number(value);
  return found === undefined ? undefined : Math.round(found * 1000);
}

/** A content that is a text, or the texts of a list of parts. */
function contentText(content: unknown): string {
  const parts = Array.isArray(content) ? (content as unknown[]) : [content];
  return parts
    .map((part) => (isFields(part) ? (text(part.text) ?? "") : (text(part) ?? "")))
    .filter((part) => part !== "")
    .join("\n");
}

/**
 * Messages of people and replies to them, in our shape. What is neither (roots, tools, empty ones) is passed over: what
 * follows it follows what stood before it. Replies in a row become one.
 */
function converted({ title, createdAt, updatedAt, messages, shown }: FoundConversation): Fields {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const kept = new Map<string, Fields>();
  /** The kept message that stands for each. */
  const standsFor = new Map<string, string | null>();
  const system = messages.find(({ role, text }) => role === "system" && text.trim() !== "")?.text;

  function place(id: string | null): string | null {
    const chain: Found[] = [];
    // Up to the beginning, or what is placed already; a cycle ends where it began.
    for (let at = id; at !== null && !standsFor.has(at) && byId.has(at); at = byId.get(at)!.parent) {
      standsFor.set(at, null);
      chain.unshift(byId.get(at)!);
    }
    for (const message of chain) {
      const parent = message.parent === null ? null : (standsFor.get(message.parent) ?? null);
      standsFor.set(message.id, keep(message, parent));
    }
    return id === null ? null : (standsFor.get(id) ?? null);
  }

  function keep({ id, role, text, time, model }: Found, parent: string | null): string | null {
    const before = parent === null ? undefined : kept.get(parent);
    if (text === "" || (role !== "user" && role !== "assistant") || (role === "assistant" && before === undefined)) {
      return parent;
    }
    const createdAt = time ?? kept.size + 1;
    if (role === "user") {
      kept.set(id, { role, id, parent, createdAt, text });
    } else if (before!.role === "assistant") {
      const [part] = before!.parts as { text: string }[];
      part!.text += `\n\n${text}`;
      return parent;
    } else {
      kept.set(id, { role, id, parent, createdAt, parts: [{ kind: "text", text }], tokens: [], state: "done", model: model ?? "" });
    }
    return id;
  }

  messages.forEach(({ id }) => place(id));
  const chosen: Record<string, string> = {};
  for (let at = shown === undefined ? null : (standsFor.get(shown) ?? null); at !== null; ) {
    const parent = kept.get(at)!.parent as string | null;
    chosen[parent ?? ""] = at;
    at = parent;
  }
  const first = [...kept.values()].find(({ role }) => role === "user");
  return {
    conversation: {
      title: title ?? String(first?.text ?? t.files.title).slice(0, 60),
      ...(createdAt !== undefined && { createdAt }),
      ...(updatedAt !== undefined && { updatedAt }),
      settings: system === undefined ? {} : { system },
      chosen,
    },
    messages: [...kept.values()],
  };
}
