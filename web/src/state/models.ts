/** The models that the server offers, and whether it can be talked to at all. */

import { computed, signal } from "@preact/signals";
import type { Server } from "../api/server";
import type { Card, Model, ModelDefaults } from "../api/wire";
import type { Settings } from "../conversation/message";
import { lastModel } from "../storage/preferences";
import { problemOf } from "./problems";

export type Connection = "connecting" | "ready" | "loading" | "unreachable" | "key";

const FIRST_WAIT = 1_000;
const LONGEST_WAIT = 10_000;
const LOOK_MILLISECONDS = 10_000;

/** What holds where neither a conversation nor the server says anything. */
const FALLBACK_DEFAULTS: ModelDefaults = { temperature: 1, top_p: 1, top_k: 0, min_p: 0, max_tokens: null };

export class Models {
  readonly all = signal<Model[]>([]);
  readonly connection = signal<Connection>("connecting");
  /** What the server said when it could not be talked to. */
  readonly complaint = signal("");
  readonly isReady = computed(() => this.connection.value === "ready");
  private readonly cards = new Map<string, Promise<Card>>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private wait = FIRST_WAIT;

  constructor(private readonly server: Server) {}

  /** Ask the server now, and until it answers again and again at growing intervals. */
  async refresh(): Promise<void> {
    clearTimeout(this.timer);
    try {
      const all = await this.server.models();
      if (JSON.stringify(all) !== JSON.stringify(this.all.peek())) {
        this.all.value = all; // else whoever shows them need not be drawn anew
      }
      this.connection.value = "ready";
      this.wait = FIRST_WAIT;
      this.timer = setTimeout(() => this.lookAgain(), LOOK_MILLISECONDS);
      return;
    } catch (error) {
      const problem = problemOf(error);
      this.complaint.value = problem.message;
      this.connection.value = problem.kind === "key" || problem.kind === "loading" ? problem.kind : "unreachable";
    }
    if (this.connection.value !== "key") {
      this.timer = setTimeout(() => void this.refresh(), this.wait);
      this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
    }
  }

  /** A server may go without a word: look from time to time whether it is still there, while anyone is looking here. */
  private lookAgain(): void {
    if (document.hidden) {
      this.timer = setTimeout(() => this.lookAgain(), LOOK_MILLISECONDS);
    } else {
      void this.refresh();
    }
  }

  /** A request has failed to reach the server, as `complaint` says: find out when it is back. */
  lostTouch(complaint: string): void {
    if (this.connection.value === "ready") {
      this.complaint.value = complaint;
      this.connection.value = "unreachable";
      clearTimeout(this.timer);
      this.timer = setTimeout(() => void this.refresh(), this.wait);
    }
  }

  /** The model that a conversation with these settings talks to, as far as it is known. */
  chosen(settings: Settings): Model | null {
    const wanted = settings.model ?? lastModel.value;
    return this.all.value.find((model) => model.id === wanted) ?? this.all.value[0] ?? null;
  }

  /** What the bundle of a model says of itself; asked for once. Nothing where the server does not say. */
  card(model: string): Promise<Card> {
    const known = this.cards.get(model) ?? this.server.card(model).catch(() => ({ card: "", suggestions: [] }));
    this.cards.set(model, known);
    return known;
  }

  /** The models that a message is sent to, as many times each as replies are asked of it: the conversation's first. */
  answering(settings: Settings): string[] {
    const first = this.chosen(settings)?.id ?? settings.model ?? "";
    const served = new Set(this.all.value.map(({ id }) => id));
    const others = (settings.beside ?? []).filter((id) => id !== first && served.has(id));
    return [first, ...others].flatMap((id) => Array<string>(settings.replies ?? 1).fill(id));
  }

  defaults(settings: Settings): ModelDefaults {
    return this.chosen(settings)?.chatsmith?.defaults ?? FALLBACK_DEFAULTS;
  }

  contextLength(settings: Settings): number | null {
    return this.chosen(settings)?.chatsmith?.context_length ?? null;
  }
}
