/** One run: how it stands in words, what needs a look, its curves, what it says, how good it is, what it is made of. */

import { useEffect, useMemo, useState } from "preact/hooks";
import { Icon } from "../components/icon";
import { t } from "../messages/language";
import { fixed } from "../messages/numbers";
import { theme } from "../storage/preferences";
import { ChartView } from "./chart";
import { Command } from "./command";
import type { Run, State, Summary } from "./data";
import { readReport } from "./data";
import { Beside, DataShares, Expected, Log, Scores, Settings, Warnings } from "./facts";
import { Samples } from "./samples";
import { bandsOf, chartsOf, placed, type Placed } from "./series";
import { alarm, clock, duration, headline, nameOf, outlook, progress, reason, share, short } from "./words";
import type { Watching } from "./watching";

interface Props {
  run: Run;
  other: Run | null;
  runs: readonly Summary[];
  watching: Watching;
}

export function RunView({ run, other, runs, watching }: Props) {
  const records = useMemo(() => placed(run.rows), [run.rows]);
  const earlier = useMemo(() => placed(other?.rows ?? []), [other?.rows]);
  return (
    <>
      <Standing run={run} />
      <Curves run={run} records={records} earlier={earlier} other={other} runs={runs} watching={watching} />
      {other && <Beside runs={[run, other]} />}
      <Samples run={run} other={other} />
      <Scores details={run.details} />
      <DataShares details={run.details} />
      <Expected details={run.details} />
      <Warnings details={run.details} />
      <Log lines={run.log} />
      <Settings details={run.details} />
    </>
  );
}

/** The first thing one wants to know, in words. */
function Standing({ run }: { run: Run }) {
  const { state, details } = run;
  const done = progress(state);
  return (
    <section class="standing">
      <p class="standing-name">
        <i class={`light is-${state.kind}`} aria-hidden="true" /> {run.name}
        {details.run.description && <span>{details.run.description}</span>}
      </p>
      <h1>{headline(state)}</h1>
      <p class="standing-outlook">
        {outlook(state).map((part) => (
          <span key={part}>{part}</span>
        ))}
      </p>
      <Stages state={state} done={done} />
      {Object.keys(state.alarm_figures).map((kind) => (
        <p key={kind} class="runs-alarm" role="alert">
          <Icon name="warning" size={16} /> {alarm(kind, state)}
        </p>
      ))}
      {state.kind === "stopped" && <HowToGoOn state={state} />}
      <Figures run={run} />
      {details.has_report && <ReportButton name={run.name} />}
    </section>
  );
}

function Stages({ state, done }: { state: State; done: number | null }) {
  const names = Object.keys(state.is_done);
  return (
    <ol class="stages" aria-label={t.runs.stages}>
      {names.map((name) => {
        const isNow = name === state.stage && state.kind !== "done";
        const kind = isNow ? `is-now is-${state.kind}` : state.is_done[name] ? "is-done" : "";
        const filled = isNow ? (done ?? 0) : state.is_done[name] ? 1 : 0;
        return (
          <li key={name} class={kind} style={{ "--filled": filled }} aria-current={isNow ? "step" : undefined}>
            {state.is_done[name] && !isNow && <Icon name="check" size={13} />} {name}
            <span class="visually-hidden">{state.is_done[name] && !isNow ? t.runs.stageDone : isNow ? t.runs.stageNow : t.runs.stageToCome}</span>
          </li>
        );
      })}
    </ol>
  );
}

function HowToGoOn({ state }: { state: State }) {
  const from = state.saved?.step
    ? t.runs.goesOnAfter(short(state.saved.step))
    : state.step
      ? t.runs.beginsAgain
      : t.runs.goesOnWith;
  return (
    <div class="runs-stopped">
      <p>{t.runs.why(reason(state))}</p>
      <p>{from}</p>
      <Command text={state.command} />
    </div>
  );
}

/** The newest figures. */
function Figures({ run }: { run: Run }) {
  const { state, rows, details } = run;
  const newest = (key: string, of = rows) => of.findLast((row) => row[key] != null)?.[key];
  const steps = rows.filter((row) => row.loss !== undefined);
  const own = steps.filter((row) => row.stage === (state.stage ?? steps.at(-1)?.stage));
  const isRL = own.at(-1)?.stage === "rl";
  const saved = state.saved && savedWhen(state, state.saved);
  const memory = Math.max(...Object.values(details.time.stages).map((stage) => stage.peak_memory_gb ?? 0));
  const figures: [string, string | null][] = [
    isRL ? [t.runs.figures.reward, said(newest("reward", own), short)] : [t.runs.figures.loss, said(newest("loss", own), (value) => fixed(value, 3))],
    [t.runs.figures.bpb, said(newest("bpb"), (value) => fixed(value, 3))],
    [t.runs.figures.pass, isRL ? said(newest("pass_at_1", own), share) : null],
    [t.runs.figures.speed, said(newest(isRL ? "rollout_tokens_per_second" : "tokens_per_second", own), short)],
    [t.runs.figures.mfu, said(newest("share_of_peak", own), share)],
    [t.runs.figures.memory, memory > 0 ? `${short(memory)} GB` : null],
    [t.runs.figures.saved, saved],
  ];
  return (
    <dl class="figures-row">
      {figures.map(([name, value]) => value && (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function savedWhen({ kind, now }: State, { step, saved_at }: NonNullable<State["saved"]>): string {
  return kind === "running" ? t.runs.savedAgo(short(step), duration(now - saved_at)) : t.runs.savedAt(short(step), clock(saved_at));
}

function said(value: number | null | undefined, format: (value: number) => string): string | null {
  return value == null ? null : format(value);
}

function ReportButton({ name }: { name: string }) {
  async function show() {
    window.open(await readReport(name), "_blank", "noopener");
  }
  return (
    <button type="button" class="button" onClick={() => void show()}>
      {t.runs.openReport}
    </button>
  );
}

interface CurvesProps extends Props {
  records: readonly Placed[];
  earlier: readonly Placed[];
}

function Curves({ run, records, earlier, other, runs, watching }: CurvesProps) {
  const scheme = useScheme();
  const bands = useMemo(() => bandsOf(records), [records]);
  const end = Math.max(records.at(-1)?.at ?? 0, earlier.at(-1)?.at ?? 0);
  const charts = useMemo(
    () => chartsOf(records, run.details, earlier, other?.name ?? ""),
    [records, run.details, earlier, other?.name],
  );
  const others = runs.filter(({ name }) => name !== run.name);
  if (charts.length === 0) {
    return null;
  }
  return (
    <section class="card">
      <div class="card-head">
        <h2>{t.runs.curves}</h2>
        {others.length > 0 && (
          <label class="compare">
            {t.runs.inGrey}{" "}
            <select value={other?.name ?? ""} onChange={(event) => watching.open(run.name, event.currentTarget.value || null)}>
              <option value="">{t.runs.noOther}</option>
              {others.map(({ name }) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
        )}
      </div>
      <div class="charts">
        {charts.map((chart, index) => (
          <ChartView key={chart.id} chart={chart} records={records} bands={chart.isOfStage ? bands.filter(({ stage }) => stage === "rl") : bands} end={end} height={index === 0 ? 260 : 170} scheme={scheme} />
        ))}
      </div>
      <RecordTable records={records} />
    </section>
  );
}

const TABLE_ROWS = 40;

/** The same as a table: every evaluation, and some of the steps. */
function RecordTable({ records }: { records: readonly Placed[] }) {
  const [isOpen, setIsOpen] = useState(false);
  const every = Math.ceil(records.length / TABLE_ROWS);
  const shown = isOpen ? records.filter(({ row }, index) => row.loss === undefined || index % every === 0 || index === records.length - 1) : [];
  const known = ["loss", "validation", "bpb", "rate", "tokens_per_second", "share_of_peak", "reward", "pass_at_1", "reply_tokens", "equal_groups", "dev_pass_at_1"];
  const keys = known.filter((key) => shown.some(({ row }) => row[key] != null));
  return (
    <details class="as-table" onToggle={(event) => setIsOpen(event.currentTarget.open)}>
      <summary>{t.runs.asTable}</summary>
      {isOpen && (
        <div class="scroll" tabIndex={0} role="group" aria-label={t.runs.curvesAsTable}>
          <table>
            <thead>
              <tr>
                <th>{t.runs.stage}</th>
                <th class="number">{t.runs.step}</th>
                <th class="number">{t.runs.after}</th>
                {keys.map((key) => (
                  <th key={key} class="number">
                    {nameOf(key)}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {shown.map(({ at, row }, index) => (
                <tr key={index}>
                  <td>{row.stage}</td>
                  <td class="number">{short(row.step)}</td>
                  <td class="number">{duration(at)}</td>
                  {keys.map((key) => (
                    <td key={key} class="number">
                      {row[key] == null ? "" : short(row[key])}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}

/** Light or dark, as it is now: charts are drawn in colours that the styles cannot change afterwards. */
function useScheme(): string {
  const query = useMemo(() => matchMedia("(prefers-color-scheme: dark)"), []);
  const [isDark, setIsDark] = useState(query.matches);
  useEffect(() => {
    const onChange = () => setIsDark(query.matches);
    query.addEventListener("change", onChange);
    return () => query.removeEventListener("change", onChange);
  }, [query]);
  return theme.value === "system" ? (isDark ? "dark" : "light") : theme.value;
}
