/** The training page: a list of runs, or one run, perhaps beside another. */

import { useState } from "preact/hooks";
import { Boundary } from "../components/boundary";
import { Icon } from "../components/icon";
import { LanguageChoice } from "../components/language-choice";
import { ThemeSwitch } from "../components/theme-switch";
import { language, t } from "../messages/language";
import { keptKey, sessionKey } from "../storage/preferences";
import { RunList } from "./list";
import { RunView } from "./run";
import type { Watching } from "./watching";

/** The page, drawn anew in another language when that is chosen. */
export function Spoken({ watching }: { watching: Watching }) {
  return <RunsPage key={language.value} watching={watching} />;
}

function RunsPage({ watching }: { watching: Watching }) {
  const { names, list, run, other, trouble } = watching;
  const runs = list.value ?? [];
  return (
    <div class="runs">
      <header class="runs-header">
        <a class="runs-brand" href="#" onClick={(event) => (event.preventDefault(), watching.open(null))}>
          <Icon name="anvil" size={20} /> chatsmith
        </a>
        {names.value.run !== null && runs.length > 1 && (
          <button type="button" class="button" onClick={() => watching.open(null)}>
            {t.runs.allRuns}
          </button>
        )}
        <span class="runs-space" />
        {run.value && Object.keys(run.value.models).length > 0 && (
          <a class="button" href="./">
            {t.common.chat}
          </a>
        )}
        <ThemeSwitch />
      </header>
      <main class="runs-main">
        {trouble.value && <Trouble watching={watching} {...trouble.value} />}
        {names.value.run === null ? (
          list.value && <RunList watching={watching} runs={runs} />
        ) : run.value?.name === names.value.run ? (
          <Boundary of={run.value} instead={<p>{t.runs.undrawn}</p>}>
            <RunView run={run.value} other={other.value?.name === names.value.other ? other.value : null} runs={runs} watching={watching} />
          </Boundary>
        ) : (
          !trouble.value && <p class="runs-wait">{t.runs.reading(names.value.run)}</p>
        )}
      </main>
      <footer class="runs-foot">
        <LanguageChoice />
      </footer>
    </div>
  );
}

/** What keeps the page from being up to date; what was read before stays below it. */
function Trouble({ words, wantsKey, watching }: { words: string; wantsKey: boolean; watching: Watching }) {
  const [key, setKey] = useState("");
  const [isKept, setIsKept] = useState(keptKey.value !== "");
  if (!wantsKey) {
    return (
      <p class="runs-alarm" role="alert">
        <Icon name="plug" size={16} /> {t.runs.isOld(words)}
      </p>
    );
  }
  function submit(event: Event) {
    event.preventDefault();
    sessionKey.value = key.trim();
    keptKey.value = isKept ? key.trim() : "";
    watching.refresh();
  }
  return (
    <form class="card runs-key" onSubmit={submit}>
      <h2>{t.key.title}</h2>
      <p>{t.key.explained}</p>
      <label>
        {t.key.key} <input type="password" autocomplete="off" value={key} onInput={(event) => setKey(event.currentTarget.value)} />
      </label>
      <label class="is-switch">
        <input type="checkbox" checked={isKept} onChange={(event) => setIsKept(event.currentTarget.checked)} /> {t.key.remember}
      </label>
      <button type="submit" class="button is-primary" disabled={key.trim() === ""}>
        {t.key.use}
      </button>
    </form>
  );
}
