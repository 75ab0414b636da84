/** Conversations as a JSON file: whole, with all branches, settings and tokens, and back. */

import { plainTitle } from "../conversation/direction";
import { wrongInBiases, wrongInSchema, wrongInTools } from "../conversation/entries";
import { newId, newTime } from "../conversation/identity";
import type { Call, Conversation, Message, Part, Reply, Settings } from "../conversation/message";
import { t } from "../messages/language";
import type { StoredConversation } from "../storage/database";
import { fromElsewhere } from "./elsewhere";

const FORMAT = "chatsmith-conversations";
const VERSION = 1;

/** A file that cannot be imported. The message says why, in a sentence for the person who chose it. */
export class ImportError extends Error {}

export function toJson(conversations: readonly StoredConversation[]): string {
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1);
}

/**
 * The conversations of a file made by `toJson`, under new ids, so that importing never overwrites.
 *
 * The file may come from anyone: a conversation that has not the right shape is left out, and so is what no message
 * leads to; `onLeftOut` is told what. Throws ImportError if nothing is left.
 */
export function fromJson(text: string, onLeftOut: (what: string) => void = () => undefined): StoredConversation[] {
  const conversations = conversationsOf(parse(text));
  if (conversations.length === 0) {
    throw new ImportError(t.files.noConversations);
  }
  let complaint: ImportError | null = null;
  const read = conversations.flatMap((value) => {
    try {
      return [readConversation(value, onLeftOut)];
    } catch (error) {
      if (!(error instanceof ImportError)) {
        throw error;
      }
      complaint ??= error;
      onLeftOut(error.message);
      return [];
    }
  });
  if (read.length === 0 && complaint) {
    throw complaint;
  }
  return read;
}

function conversationsOf(value: unknown): readonly unknown[] {
  if (typeof value === "object" && value !== null && (value as Fields).format === FORMAT) {
    const { version, conversations } = value as Fields;
    if (version !== VERSION) {
      throw new ImportError(t.files.newer);
    }
    if (Array.isArray(conversations)) {
      return conversations;
    }
  }
  const found = Array.isArray(value) && value.length === 0 ? [] : fromElsewhere(value);
  if (found === null) {
    throw new ImportError(t.files.unknownForm);
  }
  return found;
}

/** JSON, or JSON lines as a list. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    try {
      const lines = text.split("\n").filter((line) => line.trim() !== "");
      return lines.map((line) => JSON.parse(line) as unknown);
    } catch {
      throw new ImportError(t.files.notJson);
    }
  }
}

type Fields = Record<string, unknown>;

function record(value: unknown, complaint: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ImportError(complaint);
  }
  return value as Fields;
}

function string(value: unknown, fallback = ""): string {
  return typeof value === "string" ? value : fallback;
}

function number<T>(value: unknown, fallback: T): number | T {
  return typeof value === "number" && Number.isFinite(value) ? value : fallback;
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function readConversation(value: unknown, onLeftOut: (what: string) => void): StoredConversation {
  const whole = record(value, t.files.noConversation);
  const source = record(whole.conversation, t.files.noDescription);
  const title = plainTitle(string(source.title, t.files.title));
  const sources = list(whole.messages).map((each) => record(each, t.files.noMessage(title)));
  const reached = fromBeginning(sources);
  if (reached.length === 0) {
    throw new ImportError(t.files.noBeginning(title));
  }
  const ids = new Map(reached.map((message) => [string(message.id), newId()]));
  const now = newTime();
  const createdAt = number(source.createdAt, now);
  const conversation: Conversation = {
    id: newId(),
    title,
    createdAt: Math.min(now, createdAt),
    updatedAt: Math.min(now, number(source.updatedAt, createdAt)),
    settings: readSettings(source.settings),
    ...(source.pinned === true && { pinned: true }),
    chosen: Object.fromEntries(
      Object.entries(record(source.chosen ?? {}, t.files.noBranches(title))).flatMap(([at, to]) => {
        const next = ids.get(string(to));
        const from = at === "" ? "" : ids.get(at);
        return next === undefined || from === undefined ? [] : [[from, next]];
      }),
    ),
  };
  const messages = reached.map((message) => readMessage(message, conversation.id, ids, title, onLeftOut));
  // From a clock that goes fast: what is said next comes after all of it.
  const ahead = Math.max(0, ...messages.map((message) => message.createdAt - now));
  messages.forEach((message) => (message.createdAt -= ahead));
  const lost = sources.length - reached.length;
  if (lost > 0) {
    onLeftOut(t.files.unreached(lost, title));
  }
  return { conversation, messages };
}

/** The messages that the beginning leads to, each once, every one after that which it follows. */
function fromBeginning(sources: readonly Fields[]): Fields[] {
  const followers = new Map<string | null, Fields[]>();
  for (const source of sources) {
    const parent = source.parent === null || source.parent === undefined ? null : string(source.parent);
    followers.set(parent, [...(followers.get(parent) ?? []), source]);
  }
  const reached: Fields[] = [];
  const seen = new Set<string>();
  const take = (parent: string | null) => {
    for (const source of followers.get(parent) ?? []) {
      const id = string(source.id);
      if (id !== "" && !seen.has(id)) {
        seen.add(id);
        reached.push(source);
      }
    }
  };
  take(null);
  for (const source of reached) {
    take(string(source.id));
  }
  return reached;
}

function readMessage(
  source: Fields,
  conversation: string,
  ids: ReadonlyMap<string, string>,
  title: string,
  onLeftOut: (what: string) => void,
): Message {
  const parent = source.parent === null || source.parent === undefined ? null : ids.get(string(source.parent))!;
  const id = ids.get(string(source.id))!;
  const createdAt = number(source.createdAt, newTime());
  if (source.role === "user") {
    const results = list(source.results).filter(isFields).map((each) => ({ id: string(each.id), text: string(each.text) }));
    return {
      ...({ role: "user", id, conversation, parent, createdAt, text: string(source.text) } as const),
      ...(results.length > 0 && { results }),
    };
  }
  if (source.role !== "assistant" || parent === null) {
    throw new ImportError(t.files.neither(title));
  }
  const state = (["done", "cut", "stopped", "lost"] as const).find((known) => known === source.state) ?? "lost";
  const tokens = readTokens(source.tokens);
  if (tokens.length < list(source.tokens).length) {
    onLeftOut(t.files.tokensOf(title));
  }
  return {
    role: "assistant",
    id,
    conversation,
    parent,
    createdAt,
    parts: list(source.parts).map(readPart),
    tokens,
    state,
    model: string(source.model),
    figures: readFigures(source.figures),
    problem: null,
    seenFrom: ids.get(string(source.seenFrom)) ?? null,
    ...(typeof source.round === "string" && { round: source.round }),
    ...(typeof source.asked === "string" && { asked: source.asked }),
    ...((source.rating === 1 || source.rating === -1) && { rating: source.rating }),
    ...(list(source.calls).length > 0 && { calls: list(source.calls).filter(isFields).map(readCall) }),
    ...(Array.isArray(source.sources) && { sources: source.sources.filter(isFields).map(readSource) }),
    ...(source.edited === true && { edited: true }),
    ...(source.raw === true && { raw: true }),
  };
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null;
}

function readCall({ id, name, arguments: given }: Fields): Call {
  return { id: string(id), name: string(name), arguments: string(given, "{}") };
}

function readSource({ name, text }: Fields): { name: string; text: string } {
  return { name: string(name), text: string(text) };
}

function readPart(value: unknown): Part {
  const part = record(value, t.files.noPart);
  const kind = (["text", "python", "output"] as const).find((known) => known === part.kind) ?? "text";
  return { kind, text: string(part.text) };
}

function isByte(value: unknown): boolean {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 255;
}

/** Tokens are a way to look at a reply: where they are not as they should be, it is shown without. */
function readTokens(value: unknown): Reply["tokens"] {
  const isChoice = ({ text, bytes }: Fields) =>
    typeof text === "string" && (bytes == null || (Array.isArray(bytes) && bytes.every(isByte)));
  const tokens = list(value) as Reply["tokens"];
  const isWhole = tokens.every((token) => {
    const fields = token as unknown as Fields | null;
    return (
      fields !== null &&
      isChoice(fields) &&
      (list(fields.ids).length > 0 || fields.origin === "written") &&
      list(fields.ids).every(Number.isInteger) &&
      (fields.logprob === null || typeof fields.logprob === "number") &&
      Array.isArray(fields.alternatives) &&
      fields.alternatives.every(
        (option: Fields | null) =>
          option !== null && isChoice(option) && Number.isInteger(option.id) && typeof option.logprob === "number",
      )
    );
  });
  return isWhole ? tokens : [];
}

function readFigures(value: unknown): Reply["figures"] {
  if (typeof value !== "object" || value === null) {
    return null;
  }
  const figures = value as Fields;
  return {
    replyTokens: number(figures.replyTokens, 0),
    contextUsed: number(figures.contextUsed, 0),
    cachedTokens: number(figures.cachedTokens, 0),
    firstToken: number(figures.firstToken, null),
    rate: number(figures.rate, null),
    contextLength: number(figures.contextLength, null),
  };
}

const NUMBERS = [
  ...(["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"] as const),
  ...(["frequency_penalty", "presence_penalty", "repetition_penalty"] as const),
];
const MOST_REPLIES = 4;

/** Settings from anywhere; what is not as it should be is left out. */
export function readSettings(value: unknown): Settings {
  const source = (typeof value === "object" && value !== null ? value : {}) as Fields;
  const settings: Settings = {};
  for (const name of NUMBERS) {
    const setting = number(source[name], undefined);
    if (setting !== undefined) {
      settings[name] = setting;
    }
  }
  if (typeof source.system === "string") {
    settings.system = source.system;
  }
  if (typeof source.model === "string") {
    settings.model = source.model;
  }
  if (source.keepWhole === true) {
    settings.keepWhole = true;
  }
  if (source.raw === true) {
    settings.raw = true;
  }
  if (typeof source.bias === "string" && wrongInBiases(source.bias) === null) {
    settings.bias = source.bias;
  }
  if (typeof source.schema === "string" && wrongInSchema(source.schema) === null) {
    settings.schema = source.schema;
  }
  if (typeof source.tools === "string" && wrongInTools(source.tools) === null) {
    settings.tools = source.tools;
  }
  if (Number.isInteger(source.replies) && (source.replies as number) >= 1 && (source.replies as number) <= MOST_REPLIES) {
    settings.replies = source.replies as number;
  }
  const beside = list(source.beside).filter((each) => typeof each === "string");
  if (beside.length > 0) {
    settings.beside = beside;
  }
  const stop = list(source.stop).filter((each) => typeof each === "string");
  if (stop.length > 0) {
    settings.stop = stop;
  }
  return settings;
}
