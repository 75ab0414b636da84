/** The curves of a run: its records on one time line of training, stage after stage. */

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
  id: string;
  title: string;
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
  id: string;
  title: string;
  format: (value: number) => string;
  lines: { key: string | RegExp; label?: string; colour: string; look?: Curve["look"]; smooth?: boolean }[];
  stages?: (stage: string) => boolean;
}

const isRL = (stage: string) => stage === "rl";
const three = (value: number) => value.toFixed(3);

const PLANS: readonly Plan[] = [
  {
    id: "loss",
    title: "Loss, nats per token",
    format: three,
    stages: (stage) => !isRL(stage),
    lines: [
      { key: "loss", label: "training", colour: "--ember", smooth: true },
      { key: "validation", label: "validation", colour: "--steel", look: "dots" },
    ],
  },
  { id: "bpb", title: "Bits per byte, validation", format: three, lines: [{ key: "bpb", label: "bits per byte", colour: "--steel", look: "dots" }] },
  { id: "reward", title: "Reward", format: three, stages: isRL, lines: [{ key: "reward", label: "mean reward", colour: "--ember", smooth: true }] },
  {
    id: "pass",
    title: "Problems solved",
    format: share,
    stages: isRL,
    lines: [
      { key: "pass_at_1", label: "pass@1", colour: "--ember", smooth: true },
      { key: /^pass_at_(?!1$)\d+$/, colour: "--warn", smooth: true },
      { key: "dev_pass_at_1", label: "development, pass@1", colour: "--steel", look: "dots" },
      { key: /^dev_pass_at_(?!1$)\d+$/, colour: "--good", look: "dots" },
    ],
  },
  { id: "length", title: "Reply length, tokens", format: short, stages: isRL, lines: [{ key: "reply_tokens", label: "mean length", colour: "--ember", smooth: true }] },
  { id: "groups", title: "Groups without difference", format: share, stages: isRL, lines: [{ key: "equal_groups", label: "of all groups", colour: "--ember", smooth: true }] },
  { id: "core", title: "CORE", format: three, lines: [{ key: "core", label: "CORE", colour: "--steel", look: "dots" }] },
  { id: "rate", title: "Learning rate, share of its peak", format: (value) => share(value), lines: [{ key: "rate", label: "learning rate", colour: "--ink-soft" }] },
  {
    id: "speed",
    title: "Tokens per second",
    format: short,
    lines: [
      { key: "tokens_per_second", label: "training", colour: "--ink-soft" },
      { key: "rollout_tokens_per_second", label: "rollouts", colour: "--steel" },
    ],
  },
  { id: "mfu", title: "MFU, share of the matrix peak", format: share, lines: [{ key: "share_of_peak", label: "MFU", colour: "--ink-soft" }] },
  { id: "memory", title: "Memory, GB", format: short, lines: [{ key: /^(peak_)?memory_gb$/, label: "at most", colour: "--ink-soft" }] },
];

/** Every chart that the run, or the one it is compared with, has points for. */
export function chartsOf(records: readonly Placed[], details: Details, earlier: readonly Placed[], earlierName: string): Chart[] {
  const charts: Chart[] = [];
  for (const plan of PLANS) {
    const curves: Curve[] = [];
    for (const line of plan.lines) {
      for (const key of keysOf(records, line.key)) {
        const points = pointsOf(records, key, plan.stages);
        const label = line.label ?? key.replace("dev_", "development, ").replace(/pass_at_/, "pass@");
        const grey = pointsOf(earlier, key, plan.stages);
        if (grey.length > 0) {
          const look = line.look ?? "line";
          curves.push({ label: `${label}, ${earlierName}`, colour: "--ink-faint", points: line.smooth ? smoothed(grey) : grey, look });
        }
        if (line.smooth && points.length > 40) {
          curves.push({ label: "", colour: line.colour, points, look: "faint" });
        }
        curves.push({ label, colour: line.colour, points: line.smooth && points.length > 40 ? smoothed(points) : points, look: line.look ?? "line" });
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
      charts.push({ id: plan.id, title: plan.title, format: plan.format, curves: drawn, isOfStage: plan.stages === isRL });
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

/** Means over a hundredth of the points around each, fewer at the ends. */
function smoothed(points: readonly [number, number][]): [number, number][] {
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
  return [{ label: "at most", colour: "--ink-soft", points }];
}

/** The pace that a budget in minutes was planned with. */
function promisedSpeed(records: readonly Placed[], details: Details): Curve[] {
  const points = bandsOf(records).flatMap(({ stage, from, to }): [number, number][] => {
    const minutes = Number(details.settings[stage]?.minutes ?? 0);
    const own = records.findLast(({ row }) => row.stage === stage && row.tokens && row.steps)?.row;
    const promised = minutes > 0 && own ? (own.tokens! / own.step) * own.steps! / (60 * minutes) : 0;
    return promised > 0 ? [[from, promised], [to, promised]] : [];
  });
  return [{ label: "planned", colour: "--ink-faint", points, look: "dashes" }];
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
  return row ? `${row.stage}, step ${row.step.toLocaleString("en")}, after ${duration(at)}` : duration(at);
}
