/**
 * One chart, drawn by uPlot. Pointing at it, or moving with the arrow keys, says the values; all charts of the page
 * follow each other.
 */

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { t } from "../messages/language";
import { fixed } from "../messages/numbers";
import type { Band, Chart, Curve, Placed } from "./series";
import { placeOf } from "./series";
import { duration } from "./words";

const SYNC = uPlot.sync("runs");
/** Steps of the time axis, in seconds. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
const FAR = 10;

interface Props {
  chart: Chart;
  records: readonly Placed[];
  bands: readonly Band[];
  /** Of the time line that most charts share. */
  end: number;
  height: number;
  /** Changes with the colours of the page. */
  scheme: string;
}

export function ChartView({ chart, records, bands, end, height, scheme }: Props) {
  const frame = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const drawn = useRef<Chart | null>(null);
  const latest = useRef({ bands, end });
  latest.current = { bands, end };
  const [index, setIndex] = useState<number | null>(null);
  const shape = chart.curves.map(({ label, look }) => `${label}/${look}`).join();

  useEffect(() => {
    const options = optionsOf(chart, height, frame.current!, () => latest.current, setIndex);
    const made = new uPlot(options, dataOf(chart), frame.current!);
    plot.current = made;
    drawn.current = chart;
    const observer = new ResizeObserver(([entry]) => made.setSize({ width: entry!.contentRect.width, height }));
    observer.observe(frame.current!);
    return () => {
      observer.disconnect();
      made.destroy();
    };
  }, [chart.id, shape, scheme, height]);

  useEffect(() => {
    if (drawn.current === chart) {
      return;
    }
    drawn.current = chart;
    const { data, scales } = plot.current!;
    const times = data[0];
    const isWhole = scales.x!.min! <= times[0]! && scales.x!.max! >= times.at(-1)!;
    plot.current!.setData(dataOf(chart), isWhole); // what was zoomed into stays
    isWhole || plot.current!.redraw();
  }, [chart]);

  function onKeyDown(event: KeyboardEvent) {
    const { data } = plot.current!;
    const count = data[0].length;
    const now = index ?? count - 1;
    const by = event.shiftKey ? Math.max(FAR, Math.round(count / 20)) : 1;
    const to = { ArrowLeft: now - by, ArrowRight: now + by, Home: 0, End: count - 1 }[event.key];
    if (to === undefined) {
      return;
    }
    event.preventDefault();
    const at = Math.min(count - 1, Math.max(0, to));
    plot.current!.setCursor({ left: plot.current!.valToPos(data[0][at]!, "x"), top: 0 });
    setIndex(at);
  }

  const data = plot.current?.data;
  const at = index === null ? null : (data?.[0][index] ?? null);
  return (
    <figure class="chart">
      <figcaption>
        <h3>{t.runs.charts[chart.id]}</h3>
        <ul class="chart-values">
          {chart.curves.map((curve, number) => curve.label && <Value key={curve.label} curve={curve} at={at} format={chart.format} number={number} />)}
        </ul>
      </figcaption>
      <div
        ref={frame}
        class="chart-frame"
        style={{ height: `${height}px` }}
        tabIndex={0}
        role="group"
        aria-label={t.runs.chart(t.runs.charts[chart.id])}
        onKeyDown={onKeyDown}
        onBlur={() => setIndex(null)}
      />
      <p class="chart-place">{at === null ? " " : placeOf(records, at)}</p>
      <p class="visually-hidden" role="status">
        {at !== null && document.activeElement === frame.current ? inWords(chart, records, at) : ""}
      </p>
    </figure>
  );
}

interface ValueProps {
  curve: Curve;
  at: number | null;
  format: (value: number) => string;
  number: number;
}

function Value({ curve, at, format }: ValueProps) {
  const value = valueAt(curve, at);
  return (
    <li>
      <i class={`chart-key is-${curve.look ?? "line"}`} style={{ "--key": `var(${curve.colour})` }} aria-hidden="true" />
      {curve.label} <b>{value === null ? "–" : format(value)}</b>
    </li>
  );
}

function inWords(chart: Chart, records: readonly Placed[], at: number): string {
  const values = chart.curves.filter(({ label }) => label).map((curve) => `${curve.label} ${chart.format(valueAt(curve, at) ?? Number.NaN)}`);
  return `${t.format.list(values)}; ${placeOf(records, at)}`;
}

/** The curve's value nearest to a time; its last one if there is none. */
function valueAt(curve: Curve, at: number | null): number | null {
  const { points } = curve;
  if (at === null || points.length === 0) {
    return points.at(-1)?.[1] ?? null;
  }
  let low = 0;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle]![0] < at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const before = points[Math.max(0, low - 1)]!;
  const after = points[low]!;
  return (at - before[0] < after[0] - at ? before : after)[1];
}

function dataOf(chart: Chart): uPlot.AlignedData {
  const tables = chart.curves.map(({ points }) => [points.map(([at]) => at), points.map(([, value]) => value)] as uPlot.AlignedData);
  return uPlot.join(tables.map(withoutTwins));
}

/** One value for each time, the last: uPlot joins by time. */
function withoutTwins(table: uPlot.AlignedData): uPlot.AlignedData {
  const [times, values] = table as unknown as [number[], number[]];
  const kept = times.map((time, index) => index + 1 === times.length || times[index + 1]! > time);
  return [times.filter((_, index) => kept[index]), values.filter((_, index) => kept[index])] as unknown as uPlot.AlignedData;
}

function optionsOf(
  chart: Chart,
  height: number,
  frame: HTMLElement,
  latest: () => { bands: readonly Band[]; end: number },
  onPoint: (index: number | null) => void,
): uPlot.Options {
  const colour = (name: string) => resolved(frame, name);
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const axis: uPlot.Axis = {
    stroke: colour("--ink-faint"),
    font,
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
  };
  return {
    width: frame.clientWidth,
    height,
    padding: [18, 22, 0, 0], // half of a time fits beside the last line
    legend: { show: false },
    cursor: {
      sync: { key: SYNC.key, setSeries: false },
      y: false,
      drag: { x: true, y: false },
      points: { size: 7 },
      dataIdx: (u, series, index) => nearest(u.data[series] as (number | null)[], index),
    },
    scales: {
      x: { time: false, range: (_, low, high) => (chart.isOfStage ? [low, high] : [0, Math.max(high, latest().end)]) },
      y: { range: (_, low, high) => rangeOf(chart, low, high) },
    },
    axes: [
      { ...axis, incrs: STEPS, values: (_, ticks) => ticks.map(timeOf), space: 70, size: 30 },
      { ...axis, values: (_, ticks) => ticks.map((tick) => tidy(chart, tick)), size: 56, space: 34 },
    ],
    series: [{}, ...chart.curves.map((curve) => seriesOf(curve, colour(curve.colour), colour("--surface")))],
    hooks: {
      setCursor: [(u) => onPoint(u.cursor.idx ?? null)],
      drawClear: [(u) => drawBands(u, latest().bands, colour("--line-strong"), colour("--ink-faint"), font)],
    },
  };
}

function seriesOf(curve: Curve, colour: string, ground: string): uPlot.Series {
  const { look } = curve;
  return {
    label: curve.label,
    stroke: colour,
    spanGaps: true,
    width: look === "faint" ? 1 : look === "dots" ? 1.25 : 1.75,
    alpha: look === "faint" ? 0.28 : 1,
    ...(look === "dashes" && { dash: [2, 4] }),
    points: { show: look === "dots", size: 7, fill: ground, stroke: colour, width: 1.5 },
  };
}

const FROM_ZERO: ReadonlySet<string> = new Set(["rate", "mfu", "speed", "memory", "pass", "groups", "length"]);
const BEGINNING = 0.03;

/** Room above and below. Shares begin at 0; the first losses, far above all others, would press these flat. */
function rangeOf(chart: Chart, low: number, high: number): [number, number] {
  let top = high;
  if (chart.id === "loss") {
    const after = chart.curves.filter(({ look }) => look !== "dots").map(({ points }) => points[Math.floor(BEGINNING * points.length)]?.[1] ?? low);
    const later = Math.max(...after);
    top = later > low ? Math.min(high, later) : high;
  }
  const room = (top - low || Math.abs(top) || 1) * 0.06;
  return [FROM_ZERO.has(chart.id) ? 0 : low - room, top + room];
}

/** A time on the axis: 30 s, 2:30, 3 min. */
function timeOf(seconds: number): string {
  const isBetween = seconds > 60 && seconds < 3600 && seconds % 60 !== 0; // two minutes, rounded
  return seconds === 0 ? "0" : isBetween ? `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}` : duration(seconds);
}

function tidy(chart: Chart, tick: number): string {
  const said = chart.format(tick);
  return said.includes("%") ? t.format.percent(fixed(100 * tick)) : /^-?\d+\.\d+$/.test(said) ? String(Number(said)) : said;
}

function nearest(values: readonly (number | null | undefined)[], index: number): number {
  for (let by = 0; by < values.length; by++) {
    if (values[index - by] != null) {
      return index - by;
    }
    if (values[index + by] != null) {
      return index + by;
    }
  }
  return index;
}

/** Where each stage begins, and its name. */
function drawBands(u: uPlot, bands: readonly Band[], line: string, ink: string, font: string): void {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = line;
  ctx.fillStyle = ink;
  ctx.font = font.replace("12px", `${11 * ratio}px`);
  ctx.setLineDash([3 * ratio, 3 * ratio]);
  for (const { stage, from, to } of bands) {
    const left = Math.max(bbox.left, u.valToPos(from, "x", true));
    const right = Math.min(bbox.left + bbox.width, u.valToPos(to, "x", true));
    if (right - left < ctx.measureText(stage).width + 6 * ratio) {
      continue;
    }
    if (left > bbox.left + 1) {
      ctx.beginPath();
      ctx.moveTo(left, bbox.top - 12 * ratio);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.fillText(stage, left + 4 * ratio, bbox.top - 5 * ratio);
  }
  ctx.restore();
}

/** The colour that a variable of the styles stands for now. */
function resolved(place: HTMLElement, name: string): string {
  const probe = place.appendChild(document.createElement("i"));
  probe.style.color = `var(${name})`;
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
