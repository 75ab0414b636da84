/**
 * The server's HTTP API. Paths are relative to the page, so that it also works behind a proxy's prefix.
 *
 * It neither retries nor shows anything: it throws RefusedError, UnreachableError or LostError, or the
 * AbortError of the signal it was given.
 */

import { LostError, refusal, UnreachableError } from "./errors";
import { readEvents } from "./event-reader";
import { t } from "../messages/language";
import type {
  Card,
  ChatRequest,
  Model,
  TextRequest,
  Tokenized,
  Usage,
  WireChunk,
  WireLogprob,
  WireSource,
  WireMessage,
  WirePart,
  WireTextLogprobs,
} from "./wire";

/** How many alternatives are asked for with every token: enough to choose from, little to send. */
export const NUM_ALTERNATIVES = 8;

/** One step of a reply as it arrives. */
export interface ReplyStep {
  content: string;
  parts: WirePart[];
  ids: number[];
  logprobs: WireLogprob[];
  /** Pieces of calls of the person's own tools. */
  calls: NonNullable<NonNullable<NonNullable<WireChunk["choices"]>[number]["delta"]>["tool_calls"]>;
  usage: Usage | null;
  /** Not there where the server has no documents, or has named its passages before. */
  sources?: WireSource[];
  finishReason: string | null;
}

export class Server {
  /** `key` is asked anew for each request, since a person may enter one at any time. */
  constructor(
    private readonly key: () => string,
    private readonly base: string = document.baseURI,
  ) {}

  async models(): Promise<Model[]> {
    const response = await this.fetch("v1/models", {});
    return ((await response.json()) as { data: Model[] }).data;
  }

  /** How the server renders a conversation as tokens. `awaitsReply`: with the mark that opens the reply. */
  async tokenize(
    model: string,
    messages: WireMessage[],
    awaitsReply: boolean,
    signal?: AbortSignal,
    tools?: object[],
  ): Promise<Tokenized> {
    const body = { model, messages, add_generation_prompt: awaitsReply, ...(tools && { tools }) };
    const response = await this.post("tokenize", body, signal);
    return (await response.json()) as Tokenized;
  }

  /** The ids of a text's tokens. */
  async tokensOf(model: string, text: string, signal?: AbortSignal): Promise<number[]> {
    const response = await this.post("tokenize", { model, prompt: text, add_special_tokens: true }, signal);
    return ((await response.json()) as Tokenized).tokens;
  }

  /** What the bundle of a model says of itself. */
  async card(model: string, signal?: AbortSignal): Promise<Card> {
    const response = await this.fetch(`model_card?model=${encodeURIComponent(model)}`, signal ? { signal } : {});
    return (await response.json()) as Card;
  }

  /** The reply, step by step. Throws LostError if the stream ends before the reply does. */
  reply(request: ChatRequest, signal: AbortSignal): AsyncGenerator<ReplyStep> {
    return this.stream("v1/chat/completions", { ...request, logprobs: true, top_logprobs: NUM_ALTERNATIVES }, signal);
  }

  /** How a text goes on, likewise. */
  text({ max_completion_tokens: max_tokens, ...request }: TextRequest, signal: AbortSignal): AsyncGenerator<ReplyStep> {
    return this.stream("v1/completions", { ...request, max_tokens, logprobs: NUM_ALTERNATIVES }, signal);
  }

  private async *stream(path: string, body: object, signal: AbortSignal): AsyncGenerator<ReplyStep> {
    const options = { include_usage: true, continuous_usage_stats: true };
    const response = await this.post(path, { ...body, stream: true, stream_options: options, return_token_ids: true }, signal);
    let isFinished = false;
    try {
      for await (const event of readEvents(response.body!)) {
        if (event === "[DONE]") {
          break;
        }
        const step = readStep(event);
        isFinished ||= step.finishReason !== null;
        yield step;
      }
    } catch (error) {
      if (signal.aborted || error instanceof LostError) {
        throw error;
      }
      throw new LostError();
    }
    if (!isFinished) {
      throw new LostError();
    }
  }

  private post(path: string, body: object, signal?: AbortSignal): Promise<Response> {
    return this.fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      ...(signal && { signal }),
    });
  }

  private async fetch(path: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.key()) {
      headers.set("Authorization", `Bearer ${this.key()}`);
    }
    let response: Response;
    try {
      response = await fetch(new URL(path, this.base), { ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) {
        throw error;
      }
      throw new UnreachableError();
    }
    if (!response.ok) {
      throw await refusal(response);
    }
    return response;
  }
}

/** One event of the stream. Throws LostError for one that reports a failure, or that cannot be read. */
export function readStep(event: string): ReplyStep {
  let chunk: WireChunk;
  try {
    chunk = JSON.parse(event) as WireChunk;
  } catch {
    throw new LostError(t.problem.unreadable);
  }
  if (chunk.error) {
    throw new LostError(chunk.error.message ?? t.problem.failed);
  }
  const choice = chunk.choices?.[0];
  const ids = choice?.token_ids ?? [];
  const isText = choice?.text !== undefined;
  return {
    content: choice?.delta?.content ?? choice?.text ?? "",
    parts: choice?.chatsmith?.parts ?? [],
    ids,
    logprobs: isText ? logprobsOfText(choice.logprobs as unknown as WireTextLogprobs | null, ids) : (choice?.logprobs?.content ?? []),
    calls: choice?.delta?.tool_calls ?? [],
    usage: chunk.usage ?? null,
    ...(chunk.chatsmith?.sources && { sources: chunk.chatsmith.sources }),
    finishReason: choice?.finish_reason ?? null,
  };
}

/** A text completion's log-probabilities as a chat's. The ids of alternatives are not known: negative numbers stand for them. */
function logprobsOfText(logprobs: WireTextLogprobs | null, ids: readonly number[]): WireLogprob[] {
  return (logprobs?.tokens ?? []).flatMap((key, index) => {
    const logprob = logprobs!.token_logprobs[index];
    const id = ids[index];
    if (logprob == null || id === undefined) {
      return [];
    }
    const top = Object.entries(logprobs!.top_logprobs[index] ?? {}).sort(([, a], [, b]) => b - a);
    const choice = (name: string, value: number, place: number) => ({
      ...textOfKey(name),
      logprob: value,
      id: name === key ? id : -1 - place,
    });
    return [{ ...choice(key, logprob, 0), top_logprobs: top.slice(0, NUM_ALTERNATIVES).map(([name, value], place) => choice(name, value, place)) }];
  });
}

/** A token by the name that a text completion gives it: its text, or the bytes of one that is no whole text. */
function textOfKey(key: string): { token: string; bytes: number[] | null } {
  const bytes = /^bytes:((?:\\x[0-9a-f]{2})+)$/.exec(key)?.[1];
  if (bytes === undefined) {
    return { token: key, bytes: null };
  }
  return { token: "\ufffd", bytes: bytes.split("\\x").slice(1).map((byte) => Number.parseInt(byte, 16)) };
}
