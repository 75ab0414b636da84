/** What a conversation is made of. Plain data: it is stored, exported and imported as it stands. */

export type PartKind = "text" | "python" | "output";

/** A stretch of a message: text, a call of the server's tool, or what the tool answered. */
export interface Part {
  kind: PartKind;
  text: string;
}

/** Something the model might have said in a token's place. */
export interface Alternative {
  id: number;
  text: string;
  logprob: number;
  /** Only where the token is no whole text by itself. */
  bytes?: number[];
}

/** A token of a reply, or a run of them that the model was given and did not choose (a tool's output). */
export interface Token {
  ids: number[];
  text: string;
  bytes?: number[];
  /** Log-probability under the model; null if the model did not choose it. */
  logprob: number | null;
  alternatives: Alternative[];
  /** `picked`: a person put it in the place of what the model had said; `written`: a text that a person wrote. */
  origin: "sampled" | "given" | "picked" | "written";
}

export interface Figures {
  /** Tokens in the reply, marks and a tool's output included. */
  replyTokens: number;
  /** Tokens of the context that prompt and reply take together. */
  contextUsed: number;
  /** Tokens of the prompt that the server did not have to compute. */
  cachedTokens: number;
  /** Seconds from asking to the first token; null before it has come. */
  firstToken: number | null;
  /** Tokens per second from the first token on; null while there is but one. */
  rate: number | null;
  contextLength: number | null;
}

/**
 * What became of a reply: `cut` reached the limit on tokens, `stopped` was stopped by a person, `lost` ended with
 * the connection, `failed` was refused by the server.
 */
export type ReplyState = "writing" | "waiting" | "done" | "cut" | "stopped" | "lost" | "failed";

export type ProblemKind = "unreachable" | "busy" | "loading" | "key" | "context" | "model" | "refused" | "lost";

/** Why a reply is not there, in words, and what kind of remedy there is. */
export interface Problem {
  kind: ProblemKind;
  message: string;
  /** When it will be tried again by itself, in milliseconds since 1970. */
  retryAt?: number;
}

/** A call of a tool of the person's own. */
export interface Call {
  id: string;
  name: string;
  /** JSON. */
  arguments: string;
}

export interface UserMessage {
  role: "user";
  id: string;
  conversation: string;
  parent: string | null;
  createdAt: number;
  text: string;
  /** What the tools answered that the reply before it called, by the calls' ids. */
  results?: { id: string; text: string }[];
}

export interface Reply {
  role: "assistant";
  id: string;
  conversation: string;
  parent: string;
  createdAt: number;
  parts: Part[];
  tokens: Token[];
  state: ReplyState;
  model: string;
  figures: Figures | null;
  problem: Problem | null;
  /** The first message that the model still saw; null if it saw all of them. */
  seenFrom: string | null;
  /** Replies that were made at once to one message, and are shown side by side, have the same. */
  round?: string;
  /** The model that it was asked of, whichever the conversation's is. */
  asked?: string;
  /** What a person thinks of it: 1 is good, -1 bad. */
  rating?: 1 | -1;
  calls?: Call[];
  /** A person changed its text. */
  edited?: true;
  /** It goes on from the texts before it as one text, without the marks of a conversation. */
  raw?: true;
}

export type Message = UserMessage | Reply;

/** How a conversation departs from the model's defaults; what is not there is left to the model. */
export interface Settings {
  system?: string;
  model?: string;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  seed?: number;
  max_tokens?: number;
  stop?: string[];
  frequency_penalty?: number;
  presence_penalty?: number;
  repetition_penalty?: number;
  /** What is added to the scores of tokens, by id: a line each of an id and a number. */
  bias?: string;
  /** Tools that the model can call and the person answers for, as the text of a JSON list. */
  tools?: string;
  /** JSON schema, as text, that replies obey. */
  schema?: string;
  /** How many replies each model makes at once; they are shown side by side. */
  replies?: number;
  /** Models that answer, too, beside the one of the conversation. */
  beside?: string[];
  /** Replies go on from what is written, as a model does that has never seen a conversation. */
  raw?: true;
  /** Refuse a conversation that outgrew the context instead of leaving out its oldest turns. */
  keepWhole?: boolean;
}

/** All of a conversation but its messages. */
export interface Conversation {
  id: string;
  title: string;
  createdAt: number;
  updatedAt: number;
  settings: Settings;
  /** It stands above the others in the list. */
  pinned?: boolean;
  /** The chosen branch after each message, by the message's id; "" stands for the beginning. */
  chosen: Record<string, string>;
}

/** What a reply says to its reader: its text, without calls and their outputs. */
export function plainText(message: Message): string {
  if (message.role === "user") {
    return message.text;
  }
  return message.parts
    .filter((part) => part.kind === "text")
    .map((part) => part.text)
    .join("");
}

/** Whether a reply is still being made. */
export function isRunning(message: Message): boolean {
  return message.role === "assistant" && (message.state === "writing" || message.state === "waiting");
}

/** Whether a reply holds nothing that could be shown or sent. */
export function isEmpty(reply: Reply): boolean {
  return reply.parts.every((part) => part.text === "") && (reply.calls ?? []).length === 0;
}
