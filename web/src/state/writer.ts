/**
 * Makes replies: asks the server, takes in what streams, waits and tries again where that helps, and leaves every
 * reply in a state that says how it ended. Several conversations may have replies under way.
 */

import { signal } from "@preact/signals";
import type { ReplyStep, Server } from "../api/server";
import type { ChatRequest } from "../api/wire";
import { pathTo, roundOf } from "../conversation/branches";
import { biasesOf, toolsOf } from "../conversation/entries";
import { replyForModel } from "../conversation/for-model";
import { newId, newTime } from "../conversation/identity";
import { isEmpty, plainText, type Alternative, type Problem, type Reply, type Settings, type Token, type UserMessage } from "../conversation/message";
import { appendParts, END_OF_REPLY, idsOf, partsOfTokens, pickedToken, tokensOfStep, withOutputs } from "../conversation/tokens";
import { fit, roomForReply } from "./fitting";
import { OncePerFrame } from "./frames";
import { t } from "../messages/language";
import type { Models } from "./models";
import { problemOf } from "./problems";
import { Stopwatch } from "./stopwatch";
import { pageClosed, type Talk } from "./talk";

/** After as many attempts in vain a person decides. */
const MOST_ATTEMPTS = 20;

/** How far a raw text goes on where nothing else is said: it may have no end of its own. */
const RAW_TOKENS = 128;

const LEAVING_MILLISECONDS = 3_000;

export class Writer {
  /** The last thing that happened, for those who listen rather than look. */
  readonly announcement = signal("");
  /** The replies that are being made. */
  readonly running = signal<ReadonlyMap<string, AbortController>>(new Map());

  private isLeaving = false;

  constructor(
    private readonly server: Server,
    private readonly models: Models,
    private readonly onKeyNeeded: () => void,
  ) {}

  /** Say `text` after `parent` (null: at the beginning), and have it answered. */
  ask(talk: Talk, parent: string | null, text: string, results?: UserMessage["results"]): void {
    const id = newId();
    talk.add({ role: "user", id, conversation: talk.id, parent, createdAt: newTime(), text, ...(results && { results }) });
    this.answer(talk, id);
  }

  /**
   * A new reply to the user's message `parent`, as a branch beside those there are; or a round of replies, where
   * several models answer or one answers several times. Returns the id of the first.
   */
  answer(talk: Talk, parent: string): string {
    const asked = this.models.answering(talk.conversation.peek().settings);
    const round = newId();
    const replies = asked.map((model) => this.newReply(talk, parent, [], asked.length > 1 ? { round, asked: model } : {}));
    if (replies.length > 1) {
      talk.choose(replies[0]!.id);
    }
    replies.forEach((reply) => void this.run(talk, reply.id, false));
    return replies[0]!.id;
  }

  /** A reply that says `text` in the place of another, as a branch; `goesOn`: the model goes on from there. */
  rewrite(talk: Talk, replyId: string, text: string, goesOn: boolean): string {
    const source = talk.reply(replyId);
    const written: Token = { ids: [], text, logprob: null, alternatives: [], origin: "written" };
    const reply = this.newReply(talk, source.parent, [written], { ...likeThat(source), edited: true });
    if (goesOn) {
      void this.run(talk, reply.id, true);
    } else {
      talk.update(reply.id, { state: "done" });
      talk.save(reply.id);
    }
    return reply.id;
  }

  /** A branch of a reply that is the same up to the token at `index`, and has `alternative` there. Returns its id. */
  branch(talk: Talk, replyId: string, index: number, alternative: Alternative): string {
    const source = talk.reply(replyId);
    const token = source.tokens[index]!;
    // Where the model's own choice is kept, so is what the tool answered to it.
    const isSame = alternative.id === token.ids[0];
    const given = isSame ? source.tokens.slice(index + 1, index + 2).filter(({ origin }) => origin === "given") : [];
    const picked = isSame ? token : pickedToken(token, alternative);
    const reply = this.newReply(talk, source.parent, [...source.tokens.slice(0, index), picked, ...given], likeThat(source));
    if (alternative.text === END_OF_REPLY) {
      talk.update(reply.id, { state: "done", figures: source.figures });
      talk.save(reply.id);
    } else {
      void this.run(talk, reply.id, true);
    }
    return reply.id;
  }

  /** Go on with a reply that was cut, stopped or lost, where it ended. */
  resume(talk: Talk, replyId: string): void {
    const { tokens } = talk.reply(replyId);
    if (tokens.length > 0) {
      // The ids that are sent and the text that is shown have to agree; the server may have held back a last bit.
      talk.update(replyId, { parts: partsOfTokens(tokens) });
    }
    void this.run(talk, replyId, true);
  }

  /** Make a reply anew that failed, in its place. */
  retry(talk: Talk, replyId: string): void {
    talk.update(replyId, { parts: [], tokens: [], calls: [], figures: null });
    void this.run(talk, replyId, false);
  }

  stop(replyId: string): void {
    this.running.peek().get(replyId)?.abort();
  }

  stopAll(talk: Talk): void {
    for (const id of talk.all().keys()) {
      this.stop(id);
    }
  }

  private newReply(talk: Talk, parent: string, tokens: Token[], more: Partial<Reply>): Reply {
    const settings = talk.conversation.peek().settings;
    const reply: Reply = {
      role: "assistant",
      id: newId(),
      conversation: talk.id,
      parent,
      createdAt: newTime(),
      parts: partsOfTokens(tokens),
      tokens,
      state: "writing",
      model: more.asked ?? this.models.chosen(settings)?.id ?? settings.model ?? "",
      figures: null,
      problem: null,
      seenFrom: null,
      ...(settings.raw && { raw: true }),
      ...more,
    };
    talk.add(reply);
    return reply;
  }

  private async run(talk: Talk, id: string, goesOn: boolean): Promise<void> {
    const controller = new AbortController();
    this.running.value = new Map([...this.running.peek(), [id, controller]]);
    const { signal: stopped } = controller;
    try {
      for (let attempt = 1, isExact = false; ; attempt++) {
        talk.update(id, { state: "writing", problem: null });
        try {
          await this.attempt(talk, id, goesOn, isExact, stopped);
          break;
        } catch (error) {
          if (stopped.aborted) {
            talk.update(id, { state: "stopped", problem: null });
            break;
          }
          const problem = this.problemOf(talk, id, error);
          const hasBegun = problem.kind === "lost";
          if (problem.kind === "context" && !isExact && !talk.conversation.peek().settings.keepWhole) {
            isExact = true;
          } else if (problem.retryAt === undefined || attempt >= MOST_ATTEMPTS) {
            this.fail(talk, id, problem, hasBegun);
            break;
          } else if (!(await this.waitUntil(talk, id, problem, stopped))) {
            break;
          }
        }
      }
    } finally {
      this.running.value = new Map([...this.running.peek()].filter(([running]) => running !== id));
      talk.save(id);
      this.announce(talk, id);
    }
  }

  private async attempt(talk: Talk, id: string, goesOn: boolean, isExact: boolean, stopped: AbortSignal): Promise<void> {
    const before = talk.reply(id);
    const settings = settingsOf(talk, before);
    const contextLength = this.models.contextLength(settings);
    const model = this.models.chosen(settings)?.id ?? settings.model ?? "";
    const path = pathTo(talk.all(), before.parent);
    if (before.raw) {
      const text = [...path, ...(goesOn ? [before] : [])].map(plainText).join("");
      const room = roomForReply(settings, contextLength ?? RAW_TOKENS);
      const most = isExact && contextLength !== null ? contextLength - room : null;
      const prompt = most === null ? text : (await this.server.tokensOf(model, text, stopped)).slice(-most);
      talk.update(id, { model });
      const sampling = { max_completion_tokens: RAW_TOKENS, ...samplingOf(settings) };
      await this.takeIn(talk, before, this.server.text({ model, prompt, ...sampling }, stopped), contextLength);
      return;
    }
    // What a person wrote has no ids: it is sent as the text that it is.
    const prefix = goesOn && before.tokens.every(({ origin }) => origin !== "written") ? idsOf(before.tokens) : [];
    const fitted = await fit(this.server, model, path, settings, contextLength, prefix.length, isExact, stopped);
    const request: ChatRequest = {
      model,
      messages: fitted.messages.map(({ wire }) => wire),
      ...samplingOf(settings),
    };
    if (prefix.length > 0) {
      request.assistant_prefix_ids = prefix;
    } else if (goesOn && !isEmpty(before)) {
      request.messages.push(replyForModel(before));
      request.continue_final_message = true;
    }
    talk.update(id, { model, seenFrom: fitted.seenFrom });
    await this.takeIn(talk, before, this.server.reply(request, stopped), contextLength);
  }

  /** Read a reply to its end, showing it as it grows. What had come is shown and kept also when it breaks off. */
  private async takeIn(
    talk: Talk,
    before: Reply,
    steps: AsyncIterable<ReplyStep>,
    contextLength: number | null,
  ): Promise<void> {
    const watch = new Stopwatch(before.figures?.firstToken ?? null);
    const tokens = [...before.tokens];
    let parts = before.parts;
    let usage: ReplyStep["usage"] = null;
    const calls = [...(before.calls ?? [])];
    const old = calls.length;
    const show = new OncePerFrame(() => {
      const { firstToken, rate } = watch;
      if (usage === null && tokens.length === before.tokens.length) {
        talk.update(before.id, { parts });
        return; // nothing has come, or from a server that counts nothing
      }
      const figures = {
        replyTokens: tokens.reduce((sum, token) => sum + token.ids.length, 0),
        contextUsed: usage ? usage.prompt_tokens + usage.completion_tokens : (before.figures?.contextUsed ?? 0),
        cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0,
        firstToken,
        rate,
        contextLength,
      };
      talk.update(before.id, { parts, tokens: withOutputs(tokens, parts), figures });
    });
    try {
      for await (const step of steps) {
        const added = tokensOfStep(step);
        tokens.push(...added);
        parts = appendParts(parts, partsOfStep(step));
        usage = step.usage ?? usage;
        if (step.sources) {
          talk.update(before.id, { sources: step.sources });
        }
        for (const { index, id, function: piece } of step.calls) {
          const call = calls[old + index] ?? { id: id ?? "", name: piece?.name ?? "", arguments: "" };
          calls[old + index] = { ...call, arguments: call.arguments + (piece?.arguments ?? "") };
          talk.update(before.id, { calls: [...calls] });
        }
        watch.count(added.filter((token) => token.origin === "sampled").length);
        show.plan();
        if (step.finishReason !== null) {
          talk.update(before.id, { state: step.finishReason === "length" ? "cut" : "done" });
        }
      }
    } finally {
      show.plan();
      show.now();
    }
  }

  /** Wait for the time the server named. Returns false if a person would rather not. */
  private async waitUntil(talk: Talk, id: string, problem: Problem, stopped: AbortSignal): Promise<boolean> {
    talk.update(id, { state: "waiting", problem });
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, Math.max(0, problem.retryAt! - Date.now()));
      stopped.addEventListener("abort", () => {
        clearTimeout(timer);
        resolve();
      });
    });
    if (stopped.aborted) {
      talk.update(id, { state: "stopped", problem: null });
    }
    return !stopped.aborted;
  }

  /** Rethrows a mistake of our own, once the reply says that it has come to an end. */
  private problemOf(talk: Talk, id: string, error: unknown): Problem {
    try {
      return problemOf(error);
    } catch {
      this.fail(talk, id, { kind: "refused", message: t.problem.pageFailed(String(error)) }, false);
      throw error;
    }
  }

  /** The page is being closed or loaded anew, which breaks off its requests: no problem of the server's. */
  leave(): void {
    this.isLeaving = true;
    setTimeout(() => (this.isLeaving = false), LEAVING_MILLISECONDS); // a link may have led to a download only
  }

  private fail(talk: Talk, id: string, problem: Problem, hasBegun: boolean): void {
    const { retryAt: _, ...lasting } = this.isLeaving ? pageClosed() : problem;
    const isKept = hasBegun || !isEmpty(talk.reply(id));
    talk.update(id, { state: isKept ? "lost" : "failed", problem: lasting });
    if (problem.kind === "unreachable") {
      this.models.lostTouch(problem.message);
    } else if (problem.kind === "lost") {
      void this.models.refresh(); // the connection, or the server?
    } else if (problem.kind === "key") {
      this.onKeyNeeded();
    }
  }

  private announce(talk: Talk, id: string): void {
    const message = talk.message(id)?.peek();
    if (message?.role !== "assistant") {
      return;
    }
    const said = plainText(message);
    const endings: Partial<Record<Reply["state"], string>> = {
      done: t.reply.saidWhole(said),
      cut: t.reply.saidCut(said),
      stopped: t.reply.saidStopped,
    };
    this.announcement.value = endings[message.state] ?? message.problem?.message ?? "";
  }
}

function partsOfStep(step: ReplyStep): Reply["parts"] {
  return step.content === "" ? step.parts : appendParts(step.parts, [{ kind: "text", text: step.content }]);
}

/** What a reply that takes another's place has of it. */
function likeThat({ asked, raw }: Reply): Partial<Reply> {
  return { ...(asked !== undefined && { asked }), ...(raw && { raw }) };
}

/** The settings that a reply is made with: its own model's, and of equals in a round each with a seed of its own. */
function settingsOf(talk: Talk, reply: Reply): Settings {
  const { settings } = talk.conversation.peek();
  if (reply.asked === undefined) {
    return settings;
  }
  const all = talk.all();
  const equals = roundOf(all, reply.id).filter((id) => (all.get(id) as Reply).asked === reply.asked);
  const seed = settings.seed === undefined ? {} : { seed: settings.seed + Math.max(0, equals.indexOf(reply.id)) };
  return { ...settings, model: reply.asked, ...seed };
}

const SENT_AS_THEY_ARE = [
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "seed",
  "frequency_penalty",
  "presence_penalty",
  "repetition_penalty",
] as const;

function samplingOf(settings: Settings): Partial<ChatRequest> {
  const { max_tokens, stop, bias, schema, tools } = settings;
  const biases = biasesOf(bias ?? "");
  return {
    ...Object.fromEntries(SENT_AS_THEY_ARE.flatMap((name) => (settings[name] === undefined ? [] : [[name, settings[name]]]))),
    ...(max_tokens !== undefined && { max_completion_tokens: max_tokens }),
    ...(stop !== undefined && stop.length > 0 && { stop }),
    ...(biases.size > 0 && { logit_bias: Object.fromEntries(biases) }),
    ...(tools !== undefined && !settings.raw && { tools: toolsOf(tools) }),
    ...(schema !== undefined && !settings.raw && { response_format: formOf(schema) }),
  };
}

/** The form that replies have by a schema; one that says nothing asks for any JSON object. */
function formOf(schema: string): NonNullable<ChatRequest["response_format"]> {
  const parsed = JSON.parse(schema) as Record<string, unknown>;
  return Object.keys(parsed).length === 0
    ? { type: "json_object" }
    : { type: "json_schema", json_schema: { name: "reply", schema: parsed } };
}
