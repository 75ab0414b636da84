/** All runs: how each stands, its loss as a line, and its figures, to sort by. */

import { useState } from "preact/hooks";
import type { Summary } from "./data";
import { t } from "../messages/language";
import { clock, duration, headline, money, short } from "./words";
import type { Watching } from "./watching";

interface Column {
  id: string;
  name: string;
  value: (run: Summary) => number | null | undefined;
  show: (value: number) => string;
}

const KINDS = ["running", "stopped", "done", "empty"] as const;

export function RunList({ runs, watching }: { runs: readonly Summary[]; watching: Watching }) {
  const [sorting, setSorting] = useState<{ by: string; isUp: boolean }>({ by: "begun", isUp: false });
  const [picked, setPicked] = useState<readonly string[]>([]);
  const columns = columnsOf(runs);
  const column = columns.find(({ id }) => id === sorting.by) ?? columns[0]!;
  const sorted = [...runs].sort((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    return x == null || y == null ? Number(x == null) - Number(y == null) : sorting.isUp ? x - y : y - x;
  });
  const pick = (name: string) => setPicked(picked.includes(name) ? picked.filter((one) => one !== name) : [...picked.slice(-1), name]);
  return (
    <section class="card">
      <div class="card-head">
        <h1>{t.runs.title}</h1>
        <button type="button" class="button" disabled={picked.length !== 2} onClick={() => watching.open(picked[0]!, picked[1]!)}>
          {t.runs.sideBySide}
        </button>
      </div>
      <div class="scroll" tabIndex={0} role="group" aria-label={t.runs.title}>
        <table class="run-table" role="table">
          <thead role="rowgroup">
            <tr role="row">
              <th />
              <th>{t.runs.run}</th>
              <th>{t.runs.loss}</th>
              {columns.map(({ id, name }) => (
                <th key={id} role="columnheader" class="number" aria-sort={id === column.id ? (sorting.isUp ? "ascending" : "descending") : "none"}>
                  <button type="button" onClick={() => setSorting({ by: id, isUp: id === column.id ? !sorting.isUp : false })}>
                    {name}
                    <span aria-hidden="true">{id === column.id ? (sorting.isUp ? " ↑" : " ↓") : ""}</span>
                  </button>
                </th>
              ))}
            </tr>
          </thead>
          <tbody role="rowgroup">
            {sorted.map((run) => (
              <tr key={run.name} role="row">
                <td role="cell">
                  <input type="checkbox" aria-label={t.runs.choose(run.name)} checked={picked.includes(run.name)} onChange={() => pick(run.name)} />
                </td>
                <td role="cell" class="run-name">
                  <a href={`#/${encodeURIComponent(run.name)}`}>{run.name}</a>
                  <span class="run-state">
                    <i class={`light is-${run.state.kind}`} aria-hidden="true" /> {headline(run.state)}
                    {Object.keys(run.state.alarms).length > 0 && <b class="run-warning"> · {t.runs.lookAtIt}</b>}
                  </span>
                </td>
                <td role="cell">
                  <Spark values={run.spark} />
                </td>
                {columns.map(({ id, name, value, show }) => {
                  const found = value(run);
                  return (
                    <td key={id} role="cell" class="number" data-name={name}>
                      {found == null ? "–" : show(found)}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function columnsOf(runs: readonly Summary[]): Column[] {
  const scores = [...new Set(runs.flatMap((run) => Object.keys(run.scores)))].filter((name) => name !== "bits per byte");
  const said = t.runs.columns;
  return [
    { id: "state", name: said.state, value: (run) => -KINDS.indexOf(run.state.kind), show: (value) => t.runs.kinds[KINDS[-value]!] },
    { id: "loss", name: said.loss, value: (run) => run.loss, show: short },
    { id: "bpb", name: said.bpb, value: (run) => run.bpb, show: short },
    ...scores.map((name): Column => ({ id: `score ${name}`, name: name.charAt(0).toUpperCase() + name.slice(1), value: (run) => run.scores[name], show: short })),
    { id: "time", name: said.time, value: (run) => run.state.seconds, show: duration },
    ...(runs.some(({ state }) => state.price_per_hour > 0)
      ? [{ id: "cost", name: said.cost, value: ({ state }: Summary) => (state.seconds / 3600) * state.price_per_hour, show: money }]
      : []),
    { id: "begun", name: said.begun, value: (run) => run.started, show: clock },
  ];
}

/** A loss as a small line, without axes. */
function Spark({ values }: { values: readonly number[] }) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const points = values.map((value, index) => `${(index / Math.max(1, values.length - 1)) * 118 + 1},${high > low ? 27 - ((value - low) / (high - low)) * 26 : 14}`);
  return (
    <svg class="spark" viewBox="0 0 120 28" width="120" height="28" aria-hidden="true">
      <polyline points={points.join(" ")} fill="none" stroke="currentColor" stroke-width="1.5" />
    </svg>
  );
}
