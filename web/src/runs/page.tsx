/** The training page: a list of runs, or one run, perhaps beside another. */

import { useState } from "preact/hooks";
import { Boundary } from "../components/boundary";
import { Icon } from "../components/icon";
import { ThemeSwitch } from "../components/theme-switch";
import { keptKey, sessionKey } from "../storage/preferences";
import { RunList } from "./list";
import { RunView } from "./run";
import type { Watching } from "./watching";

export function RunsPage({ watching }: { watching: Watching }) {
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
            All runs
          </button>
        )}
        <span class="runs-space" />
        {run.value && Object.keys(run.value.models).length > 0 && (
          <a class="button" href="./">
            Chat
          </a>
        )}
        <ThemeSwitch />
      </header>
      <main class="runs-main">
        {trouble.value && <Trouble watching={watching} {...trouble.value} />}
        {names.value.run === null ? (
          list.value && <RunList watching={watching} runs={runs} />
        ) : run.value?.name === names.value.run ? (
          <Boundary of={run.value} instead={<p>This run cannot be shown.</p>}>
            <RunView run={run.value} other={other.value?.name === names.value.other ? other.value : null} runs={runs} watching={watching} />
          </Boundary>
        ) : (
          !trouble.value && <p class="runs-wait">Reading {names.value.run} …</p>
        )}
      </main>
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
        <Icon name="plug" size={16} /> {words} What is shown may be old; this page tries again by itself.
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
      <h2>This server asks for a key</h2>
      <p>Whoever started it chose one. It is kept in this browser only, and sent to this server only.</p>
      <label>
        Key <input type="password" autocomplete="off" value={key} onInput={(event) => setKey(event.currentTarget.value)} />
      </label>
      <label class="is-switch">
        <input type="checkbox" checked={isKept} onChange={(event) => setIsKept(event.currentTarget.checked)} /> Remember it on this device
      </label>
      <button type="submit" class="button is-primary" disabled={key.trim() === ""}>
        Use this key
      </button>
    </form>
  );
}
