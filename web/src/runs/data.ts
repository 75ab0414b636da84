/** What the server knows of runs, and how the page asks for it: only for what it does not have yet. */

import { refusal, UnreachableError } from "../api/errors";
import { keptKey, sessionKey } from "../storage/preferences";

export type Kind = "running" | "done" | "stopped" | "empty";

export interface State {
  kind: Kind;
  stage: string | null;
  step: number;
  steps: number | null;
  is_done: Record<string, boolean>;
  seconds: number;
  seconds_left: number | null;
  price_per_hour: number;
  last_at: number | null;
  now: number;
  saved: { step: number; saved_at: number } | null;
  /** In English, by kind; and the figures in them, none where the loss was not finite. */
  alarms: Record<string, string>;
  alarm_figures: Record<string, Record<string, number>>;
  /** Why it stopped, in English; its kind where those are not the program's own words. */
  reason: string | null;
  reason_kind: string | null;
  command: string;
}

/** A line of metrics.jsonl: a step, which has a loss, or an evaluation. */
export type Row = { stage: string; step: number } & Partial<Record<string, number | null>>;

export interface Score {
  value: number;
  low: number | null;
  high: number | null;
  n: number | null;
  chance: number | null;
}

export interface Sample {
  section: string;
  prompt: string;
  expected: string;
  replies: Record<string, string>;
}

/** What training wrote of its texts at a step: replies of reinforcement learning, or a continuation at an evaluation. */
export interface Texts {
  stage: string;
  step: number;
  shown?: { prompt: string; reply: string; reward: number | null; group: (number | null)[] }[];
  sample?: string;
  samples?: { prompt: string; tokens: KeptToken[] }[];
}

/** Its id; its text, or its bytes where it is a part of a character; its log-probability, null where it was put in. */
type KeptChoice<Logprob = number> = [id: number, text: string | number[], logprob: Logprob];
export type KeptToken = [...KeptChoice<number | null>, alternatives: KeptChoice[]];

export interface Source {
  source: string;
  items?: number;
  epochs?: number;
  tokens?: number;
  share: number;
}

type Split = { train: number; validation: number; shares: Record<string, number> };

export interface Details {
  run: { name: string; path: string; description: string };
  stages: Record<string, string>;
  done: Record<string, Record<string, unknown>>;
  time: { seconds: number; stages: Record<string, { seconds: number; peak_memory_gb?: number }> };
  scores: Record<string, Record<string, Score>>;
  rl: { gain?: number[]; task?: string; sections?: Record<string, { n: number; before: number[]; after: number[] }> };
  data: { documents?: Split; conversations?: Split };
  samples: Sample[];
  texts: Texts[];
  /** Steps whose weights were kept, by stage. */
  checkpoints: Record<string, string[]>;
  warnings: string[];
  missing: string[];
  settings: Record<string, Record<string, unknown>>;
  /** What the recipe says others measured. */
  expected: Record<string, unknown>;
  has_report: boolean;
}

/** A run as far as the page has read it. */
export interface Run {
  name: string;
  state: State;
  rows: Row[];
  details: Details;
  /** The end of the log. */
  log: string[];
  models: Record<string, string>;
  cursor: string;
  version: string;
}

export interface Summary {
  name: string;
  state: State;
  loss: number | null;
  bpb: number | null;
  scores: Record<string, number>;
  started: number | null;
  spark: number[];
  /** Whether one can talk to a model of it here. */
  is_served: boolean;
}

interface Answer extends Omit<Run, "details" | "log"> {
  details: Details | null;
  log: string[] | null;
  starts_anew: boolean;
}

/** The run `name`, going on from what is known of it. */
export async function readRun(name: string, known: Run | null): Promise<Run> {
  const since = known ? { since: known.cursor, version: known.version } : {};
  const { starts_anew, details, log, rows, ...rest } = (await ask("runs/data", { run: name, ...since })) as Answer;
  return {
    ...rest,
    rows: starts_anew || !known ? rows : rows.length > 0 ? [...known.rows, ...rows] : known.rows,
    details: details ?? known!.details,
    log: log ?? known?.log ?? [],
  };
}

export async function readList(): Promise<Summary[]> {
  return ((await ask("runs/list", {})) as { runs: Summary[] }).runs;
}

/** The address of the run's report, as a page of its own. */
export async function readReport(name: string): Promise<string> {
  const response = await fetchWithKey("runs/report", { run: name });
  return URL.createObjectURL(await response.blob());
}

async function ask(path: string, query: Record<string, string>): Promise<unknown> {
  return (await fetchWithKey(path, query)).json();
}

/** Throws RefusedError, or UnreachableError. */
async function fetchWithKey(path: string, query: Record<string, string>): Promise<Response> {
  const address = new URL(path, document.baseURI);
  address.search = new URLSearchParams(query).toString();
  const key = sessionKey.value || keptKey.value;
  const response = await fetch(address, key ? { headers: { Authorization: `Bearer ${key}` } } : {}).catch(() => {
    throw new UnreachableError();
  });
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}
