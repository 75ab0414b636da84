/** Which runs are looked at, and asking for news of them: often while one is running and seen, seldom otherwise. */

import { batch, effect, signal } from "@preact/signals";
import { RefusedError } from "../api/errors";
import { readList, readRun, type Run, type State, type Summary } from "./data";
import { language, t } from "../messages/language";
import { fixed } from "../messages/numbers";
import { headline, progress } from "./words";

const RUNNING_SECONDS = 2;
const QUIET_SECONDS = 5;
const HIDDEN_SECONDS = 20;
const SHAPE = /^#\/([^/]+)(?:\/with\/([^/]+))?$/;

export class Watching {
  readonly list = signal<readonly Summary[] | null>(null);
  readonly run = signal<Run | null>(null);
  /** The run that this one is compared with. */
  readonly other = signal<Run | null>(null);
  /** What keeps the page from being up to date; `key`: a key is wanted. */
  readonly trouble = signal<{ words: string; wantsKey: boolean } | null>(null);
  /** The names in the address: the run and the other one. */
  readonly names = signal<{ run: string | null; other: string | null }>(namesInAddress());
  private timer: ReturnType<typeof setTimeout> | undefined;
  private round = 0;

  start(): void {
    addEventListener("hashchange", () => {
      this.names.value = namesInAddress();
      this.refresh();
    });
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
    effect(() => language.value && showInTab(this.names.value.run === null ? null : this.run.value));
    this.refresh();
  }

  /** Go to a run, or with null to the list; `other`: beside another one. */
  open(run: string | null, other: string | null = null): void {
    location.hash = run === null ? "" : `#/${encodeURIComponent(run)}${other ? `/with/${encodeURIComponent(other)}` : ""}`;
  }

  /** Ask now, and from then on regularly. */
  refresh(): void {
    clearTimeout(this.timer);
    const round = ++this.round;
    void this.read(round).then(() => {
      if (round === this.round) {
        const kinds = [this.run.value?.state, ...(this.list.value ?? []).map(({ state }) => state)].map((state) => state?.kind);
        const seconds = document.hidden ? HIDDEN_SECONDS : kinds.includes("running") ? RUNNING_SECONDS : QUIET_SECONDS;
        this.timer = setTimeout(() => this.refresh(), 1000 * seconds);
      }
    });
  }

  private async read(round: number): Promise<void> {
    try {
      let { run, other } = this.names.value;
      if (this.list.value === null || run === null) {
        const isFirst = this.list.value === null;
        const runs = await readList();
        this.list.value = runs;
        const served = runs.filter((one) => one.is_served);
        // Whoever opens the page of a served run wants that one; the others are there to compare it with.
        const only = runs.length === 1 ? runs[0]!.name : isFirst && served.length === 1 ? served[0]!.name : null;
        if (run === null && only !== null && round === this.round) {
          run = only;
          this.names.value = { run, other };
        }
      }
      const known = (one: Run | null, name: string | null) => (one?.name === name ? one : null);
      const [first, second] = await Promise.all([
        run === null ? null : readRun(run, known(this.run.value, run)),
        other === null ? null : readRun(other, known(this.other.value, other)),
      ]);
      if (round === this.round) {
        batch(() => {
          this.run.value = first;
          this.other.value = second;
          this.trouble.value = null;
        });
      }
    } catch (error) {
      if (round === this.round) {
        this.trouble.value = { words: (error as Error).message, wantsKey: error instanceof RefusedError && error.status === 401 };
      }
    }
  }
}

function namesInAddress(): { run: string | null; other: string | null } {
  const found = SHAPE.exec(location.hash);
  return { run: found ? decodeURIComponent(found[1]!) : null, other: found?.[2] ? decodeURIComponent(found[2]) : null };
}

const COLOURS: Readonly<Record<State["kind"], string>> = { running: "#c2570f", done: "#3d8b4f", stopped: "#b3261e", empty: "#8a8177" };

/** The tab's title and icon say how the run stands. */
function showInTab(run: Run | null): void {
  const icon = document.querySelector<HTMLLinkElement>('link[rel="icon"]')!;
  if (!run) {
    document.title = `${t.runs.title} · chatsmith`;
    icon.href = "./icon.svg";
    return;
  }
  const { state, name } = run;
  const done = progress(state);
  const alarm = Object.keys(state.alarms).length > 0 ? "⚠ " : "";
  const percent = state.kind === "running" && done !== null ? `${t.format.percent(fixed(Math.floor(100 * done)))} ` : "";
  document.title = `${alarm}${percent}${headline(state)} · ${name}`;
  const turn = 2 * Math.PI * 12;
  const ring = done === null ? turn / 4 : turn * done;
  const colour = COLOURS[state.kind];
  const mark = state.kind === "done" ? '<path d="M10.5 16.5l4 4 7.5-8.5"/>' : state.kind === "stopped" ? '<path d="M16 10v7M16 21v.5"/>' : "";
  const drawing = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="none" stroke="${colour}" stroke-width="4" stroke-linecap="round"><circle cx="16" cy="16" r="12" stroke-opacity=".3"/><circle cx="16" cy="16" r="12" stroke-dasharray="${ring} ${turn}" transform="rotate(-90 16 16)"/>${mark}</svg>`;
  icon.href = `data:image/svg+xml,${encodeURIComponent(drawing)}`;
}
