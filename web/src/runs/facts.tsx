/** What is known of a run besides its curves: scores, data, warnings, log, settings; and two runs side by side. */

import type { Details, Run, Score, Source } from "./data";
import { named, t } from "../messages/language";
import { fixed } from "../messages/numbers";
import { duration, headline, money, nameOf, share, short } from "./words";

/** Scores by stage, with their intervals as bars. */
export function Scores({ details }: { details: Details }) {
  const stages = Object.keys(details.scores);
  const names = [...new Set(stages.flatMap((stage) => Object.keys(details.scores[stage]!)))];
  const { gain, task, sections } = details.rl;
  if (names.length === 0 && !gain) {
    return null;
  }
  return (
    <section class="card">
      <h2>{t.runs.evaluations}</h2>
      {names.length > 0 && (
        <div class="scroll" tabIndex={0} role="group" aria-label={t.runs.scoresByStage}>
          <table>
            <thead>
              <tr>
                <th />
                {stages.map((stage) => (
                  <th key={stage}>{stage}</th>
                ))}
              </tr>
            </thead>
            <tbody>
              {names.map((name) => (
                <tr key={name} class={name.includes(":") ? "is-part" : ""}>
                  <th scope="row">{name}</th>
                  {stages.map((stage) => (
                    <td key={stage}>{details.scores[stage]![name] && <ScoreCell score={details.scores[stage]![name]} isShare={!/bits/.test(name)} />}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {gain && sections && (
        <>
          <h3>{t.runs.beforeAfterOf(task ?? "")}</h3>
          <div class="scroll" tabIndex={0} role="group" aria-label={t.runs.beforeAfter}>
            <table>
              <thead>
                <tr>
                  <th />
                  <th>{t.runs.before}</th>
                  <th>{t.runs.afterwards}</th>
                  <th class="number">{t.runs.problems}</th>
                </tr>
              </thead>
              <tbody>
                {Object.entries(sections).map(([name, { n, before, after }]) => (
                  <tr key={name} class={name === "all" ? "" : "is-part"}>
                    <th scope="row">{name}</th>
                    {[before, after].map((score, index) => (
                      <td key={index}>
                        <ScoreCell score={{ value: score[0]!, low: score[1]!, high: score[2]!, n, chance: null }} isShare />
                      </td>
                    ))}
                    <td class="number">{short(n)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
    </section>
  );
}

function ScoreCell({ score, isShare }: { score: Score; isShare: boolean }) {
  const say = (value: number) => (isShare ? share(value) : fixed(value, 3));
  const { value, low, high, chance } = score;
  return (
    <span class="score">
      <b>{say(value)}</b>
      {low !== null && high !== null && (
        <>
          <span class="score-interval">
            {t.runs.interval(say(low), say(high))}
          </span>
          {isShare && (
            <span class="score-bar" aria-hidden="true" style={{ "--low": low, "--high": high, "--value": value, "--chance": chance ?? -1 }}>
              <i />
            </span>
          )}
        </>
      )}
    </span>
  );
}

/** What it learned from, with the shares that were really used. */
export function DataShares({ details }: { details: Details }) {
  const { documents, conversations } = details.data;
  const mixtures = Object.entries(details.done)
    .map(([stage, facts]) => [stage, facts.mixture] as const)
    .filter((entry): entry is readonly [string, Source[]] => Array.isArray(entry[1]));
  const parts = { documents, conversations };
  if (!documents && !conversations && mixtures.length === 0) {
    return null;
  }
  return (
    <section class="card">
      <h2>{t.runs.data}</h2>
      {Object.entries(parts).map(
        ([kind, split]) =>
          split && (
            <div key={kind} class="shares">
              <h3>
                {named(t.runs.dataKinds, kind)} <span>{t.runs.split(short(split.train), short(split.validation))}</span>
              </h3>
              <Shares shares={split.shares} />
            </div>
          ),
      )}
      {mixtures.map(([stage, sources]) => (
        <div key={stage} class="shares">
          <h3>{stage}</h3>
          <Shares shares={Object.fromEntries(sources.map(({ source, share: part }) => [source, part]))} />
        </div>
      ))}
    </section>
  );
}

function Shares({ shares }: { shares: Record<string, number> }) {
  return (
    <ul>
      {Object.entries(shares).map(([name, part]) => (
        <li key={name} style={{ "--share": part }}>
          <span>{name}</span> <b>{share(part)}</b>
        </li>
      ))}
    </ul>
  );
}

export function Warnings({ details }: { details: Details }) {
  const lines = [...details.warnings, ...details.missing];
  return lines.length > 0 ? (
    <section class="card">
      <h2>{t.runs.worthKnowing}</h2>
      <ul class="lines">
        {lines.map((line) => (
          <li key={line} lang="en">
            {line}
          </li>
        ))}
      </ul>
    </section>
  ) : null;
}

/** What the recipe promised, in its own words. */
export function Expected({ details }: { details: Details }) {
  const parts = ["cost", "scores", "source", "advice"].filter((name) => typeof details.expected[name] === "string");
  return parts.length > 0 ? (
    <section class="card">
      <h2>{t.runs.expectations}</h2>
      <ul class="lines">
        {parts.map((name) => (
          <li key={name}>
            {t.runs.fieldOf(named(t.runs.expectationKinds, name), String(details.expected[name]))}
          </li>
        ))}
      </ul>
    </section>
  ) : null;
}

export function Log({ lines }: { lines: readonly string[] }) {
  return lines.length > 0 ? (
    <section class="card">
      <h2>{t.runs.log}</h2>
      <pre class="log" lang="en" tabIndex={0} ref={(box) => void (box && (box.scrollTop = box.scrollHeight))}>
        {lines.join("\n")}
      </pre>
    </section>
  ) : null;
}

export function Settings({ details }: { details: Details }) {
  return (
    <section class="card">
      <h2>{t.common.settings}</h2>
      {Object.entries(details.settings)
        .filter(([, settings]) => Object.keys(settings).length > 0)
        .map(([stage, settings]) => (
          <details key={stage} class="settings-of">
            <summary>{stage}</summary>
            <dl>
              {Object.entries(settings).map(([name, value]) => (
                <div key={name}>
                  <dt>{name}</dt>
                  <dd>{inWords(value)}</dd>
                </div>
              ))}
            </dl>
          </details>
        ))}
    </section>
  );
}

function inWords(value: unknown): string {
  return Array.isArray(value) ? t.format.list(value.map(inWords)) || "–" : value === "" ? "–" : String(value);
}

/** Two runs: their figures, and the settings that differ. */
export function Beside({ runs }: { runs: readonly [Run, Run] }) {
  const rows: [string, string[]][] = [
    [t.runs.state, runs.map(({ state }) => headline(state))],
    [t.runs.time, runs.map(({ state }) => duration(state.seconds))],
  ];
  if (runs.some(({ state }) => state.price_per_hour > 0)) {
    rows.push([t.runs.cost, runs.map(({ state }) => money((state.seconds / 3600) * state.price_per_hour))]);
  }
  const figures = runs.map(figuresOf);
  for (const name of new Set(figures.flatMap((one) => [...one.keys()]))) {
    rows.push([name, figures.map((one) => one.get(name) ?? "–")]);
  }
  const settings = runs.map(({ details }) => flat(details.settings));
  const differing = [...new Set(settings.flatMap((one) => [...one.keys()]))].filter((name) => settings[0]!.get(name) !== settings[1]!.get(name));
  return (
    <section class="card">
      <h2>{t.runs.twoTitle}</h2>
      <div class="scroll is-wrapped" tabIndex={0} role="group" aria-label={t.runs.twoLabel}>
        <table>
          <thead>
            <tr>
              <th />
              {runs.map(({ name }) => (
                <th key={name} class="number">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {[...rows, ...differing.map((name): [string, string[]] => [name, settings.map((one) => one.get(name) ?? "–")])].map(([name, values]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                {values.map((value, index) => (
                  <td key={index} class="number">
                    {value}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {differing.length === 0 && <p class="sample-note">{t.runs.allSame}</p>}
    </section>
  );
}

function figuresOf({ rows, details }: Run): Map<string, string> {
  const found = new Map<string, string>();
  for (const row of rows) {
    for (const key of ["loss", "validation", "bpb", "reward", "dev_pass_at_1"]) {
      if (row[key] != null && !(key === "loss" && row.stage === "rl")) {
        found.set(t.runs.fieldOf(row.stage, nameOf(key)), fixed(row[key], 3));
      }
    }
  }
  for (const [stage, scores] of Object.entries(details.scores)) {
    for (const [name, { value }] of Object.entries(scores)) {
      found.set(t.runs.fieldOf(stage, name), fixed(value, 3));
    }
  }
  return found;
}

function flat(settings: Details["settings"]): Map<string, string> {
  const entries = Object.entries(settings).flatMap(([stage, own]) => Object.entries(own).map(([name, value]) => [`${stage}.${name}`, inWords(value)] as const));
  return new Map(entries);
}
