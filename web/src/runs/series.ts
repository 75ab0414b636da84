/** The curves of a run: its records on one time line of training, stage after stage. */

import { t } from "../messages/language";
import type { Messages } from "../messages/messages";
import { fixed } from "../messages/numbers";
import type { Details, Row } from "./data";
import { duration, share, short } from "./words";

/** A record and when it was, in seconds of training since the beginning of the first stage. */
export interface Placed {
  at: number;
  row: Row;
}

export interface Band {
  stage: string;
  from: number;
  to: number;
}

export interface Curve {
  label: string;
  colour: string;
  points: [number, number][];
  /** `dots` for evaluations, `dashes` for what was promised. */
  look?: "line" | "faint" | "dots" | "dashes";
}

export interface Chart {
  id: keyof Messages["runs"]["charts"];
  format: (value: number) => string;
  curves: Curve[];
  /** Whether it is of one stage, and so on a time line of its own. */
  isOfStage: boolean;
}

/** The records with their places on the time line. What lacks a time of its own has that of the step before. */
export function placed(rows: readonly Row[]): Placed[] {
  const ends = new Map<string, number>();
  let base = 0;
  let last = 0;
  let stage = "";
  return rows.map((row) => {
    if (row.stage !== stage) {
      stage = row.stage;
      base = ends.get(stage) ?? last;
      ends.set(stage, base);
    }
    last = row.seconds == null ? Math.max(last, base) : base + row.seconds;
    return { at: last, row };
  });
}

export function bandsOf(records: readonly Placed[]): Band[] {
  const bands: Band[] = [];
  for (const { at, row } of records) {
    const band = bands.at(-1);
    if (band?.stage === row.stage) {
      band.to = at;
    } else {
      bands.push({ stage: row.stage, from: at, to: at });
    }
  }
  return bands;
}

interface Plan {
  id: keyof Messages["runs"]["charts"];
  format: (value: number) => string;
  lines: { key: string | RegExp; label: (lines: Messages["runs"]["lines"], key: string) => string; colour: string; look?: Curve["look"]; smooth?: boolean }[];
  stages?: (stage: string) => boolean;
}

const isRL = (stage: string) => stage === "rl";
const three = (value: number) => fixed(value, 3);
const passed = (lines: Messages["runs"]["lines"], key: string) =>
  (key.startsWith("dev_") ? lines.devPass : lines.pass)(key.replace(/^.*_/, ""));

const PLANS: readonly Plan[] = [
  {
    id: "loss",
    format: three,
    stages: (stage) => !isRL(stage),
    lines: [
      { key: "loss", label: (lines) => lines.training, colour: "--ember", smooth: true },
      { key: "validation", label: (lines) => lines.validation, colour: "--steel", look: "dots" },
    ],
  },
  { id: "bpb", format: three, lines: [{ key: "bpb", label: (lines) => lines.bpb, colour: "--steel", look: "dots" }] },
  { id: "reward", format: three, stages: isRL, lines: [{ key: "reward", label: (lines) => lines.reward, colour: "--ember", smooth: true }] },
  {
    id: "pass",
    format: share,
    stages: isRL,
    lines: [
      { key: "pass_at_1", label: passed, colour: "--ember", smooth: true },
      { key: /^pass_at_(?!1$)\d+$/, label: passed, colour: "--warn", smooth: true },
      { key: "dev_pass_at_1", label: passed, colour: "--steel", look: "dots" },
      { key: /^dev_pass_at_(?!1$)\d+$/, label: passed, colour: "--good", look: "dots" },
    ],
  },
  { id: "length", format: short, stages: isRL, lines: [{ key: "reply_tokens", label: (lines) => lines.length, colour: "--ember", smooth: true }] },
  { id: "groups", format: share, stages: isRL, lines: [{ key: "equal_groups", label: (lines) => lines.groups, colour: "--ember", smooth: true }] },
  { id: "core", format: three, lines: [{ key: "core", label: (lines) => lines.core, colour: "--steel", look: "dots" }] },
  { id: "rate", format: (value) => share(value), lines: [{ key: "rate", label: (lines) => lines.rate, colour: "--ember" }] },
  {
    id: "speed",
    format: short,
    lines: [
      { key: "tokens_per_second", label: (lines) => lines.training, colour: "--ember" },
      { key: "rollout_tokens_per_second", label: (lines) => lines.rollouts, colour: "--steel" },
    ],
  },
  { id: "mfu", format: share, lines: [{ key: "share_of_peak", label: (lines) => lines.mfu, colour: "--ember" }] },
  { id: "memory", format: short, lines: [{ key: /^(peak_)?memory_gb$/, label: (lines) => lines.atMost, colour: "--ember" }] },
];

/** Every chart that the run, or the one it is compared with, has points for. */
export function chartsOf(records: readonly Placed[], details: Details, earlier: readonly Placed[], earlierName: string): Chart[] {
  const charts: Chart[] = [];
  for (const plan of PLANS) {
    const curves: Curve[] = [];
    for (const line of plan.lines) {
      for (const key of keysOf(records, line.key)) {
        const points = pointsOf(records, key, plan.stages);
        const label = line.label(t.runs.lines, key);
        const grey = (line.smooth ? smoothed : pointsOf)(earlier, key, plan.stages);
        if (grey.length > 0) {
          const look = line.look ?? "line";
          curves.push({ label: t.runs.lines.ofRun(label, earlierName), colour: "--ink-faint", points: grey, look });
        }
        if (line.smooth && points.length > 40) {
          curves.push({ label: "", colour: line.colour, points, look: "faint" });
        }
        curves.push({ label, colour: line.colour, points: line.smooth && points.length > 40 ? smoothed(records, key, plan.stages) : points, look: line.look ?? "line" });
      }
    }
    if (plan.id === "memory" && curves.length === 0) {
      curves.push(...memoryOf(records, details));
    }
    if (plan.id === "speed") {
      curves.push(...promisedSpeed(records, details));
    }
    const drawn = curves.filter(({ points }) => points.length > 0);
    if (drawn.length > 0) {
      charts.push({ id: plan.id, format: plan.format, curves: drawn, isOfStage: plan.stages === isRL });
    }
  }
  return charts;
}

function keysOf(records: readonly Placed[], key: string | RegExp): string[] {
  if (typeof key === "string") {
    return [key];
  }
  const found = new Set(records.flatMap(({ row }) => Object.keys(row).filter((name) => key.test(name))));
  return [...found].sort();
}

function pointsOf(records: readonly Placed[], key: string, stages: (stage: string) => boolean = () => true): [number, number][] {
  const points: [number, number][] = [];
  for (const { at, row } of records) {
    const value = row[key];
    if (typeof value === "number" && stages(row.stage)) {
      points.push([at, value]);
    }
  }
  return points;
}

/** Means of what one stage gave: of the next one nothing goes into it. */
function smoothed(records: readonly Placed[], key: string, stages: (stage: string) => boolean = () => true): [number, number][] {
  const names = [...new Set(records.map(({ row }) => row.stage))].filter(stages);
  return names.flatMap((name) => means(pointsOf(records, key, (stage) => stage === name)));
}

/** Means over a hundredth of the points around each, fewer at the ends. */
function means(points: readonly [number, number][]): [number, number][] {
  const sums = [0];
  for (const [, value] of points) {
    sums.push(sums.at(-1)! + value);
  }
  const reach = Math.ceil(points.length / 100);
  return points.map(([at], index) => {
    const half = Math.min(reach, index, points.length - 1 - index);
    return [at, (sums[index + half + 1]! - sums[index - half]!) / (2 * half + 1)];
  });
}

/** Of finished stages only the most that was needed is known: one level a stage. */
function memoryOf(records: readonly Placed[], details: Details): Curve[] {
  const points = bandsOf(records).flatMap(({ stage, from, to }): [number, number][] => {
    const most = details.time.stages[stage]?.peak_memory_gb;
    return most ? [[from, most], [to, most]] : [];
  });
  return [{ label: t.runs.lines.atMost, colour: "--ember", points }];
}

/** The pace that a stage was planned with: by the model of time where the GPU is in its table, else by its minutes. */
function promisedSpeed(records: readonly Placed[], details: Details): Curve[] {
  const points = bandsOf(records).flatMap(({ stage, from, to }): [number, number][] => {
    const minutes = Number(details.settings[stage]?.minutes ?? 0);
    const own = records.findLast(({ row }) => row.stage === stage && row.tokens && row.steps)?.row;
    const foreseen = Number(details.done[stage]?.foreseen_tokens_per_second ?? 0);
    const promised = foreseen || (minutes > 0 && own ? ((own.tokens! / own.step) * own.steps!) / (60 * minutes) : 0);
    return promised > 0 ? [[from, promised], [to, promised]] : [];
  });
  return [{ label: t.runs.lines.planned, colour: "--ink-faint", points, look: "dashes" }];
}

/** Where a point is, in words. */
export function placeOf(records: readonly Placed[], at: number): string {
  let low = 0;
  let high = records.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (records[middle]!.at < at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const row = records[low]?.row;
  return row ? t.runs.placeOf(row.stage, fixed(row.step), duration(at)) : duration(at);
}
