/** How this conversation is held: what the model is told beforehand, and how its words are chosen. */

import { useId, useRef, useState } from "preact/hooks";
import type { Settings } from "../conversation/message";
import { focusWhenLost } from "../state/focus";
import { useWorkbench } from "../state/workbench";
import { keptKey, sessionKey } from "../storage/preferences";
import { GrowingField } from "./growing-field";
import { NumberSetting } from "./number-setting";

export function SettingsSheet() {
  const bench = useWorkbench();
  const settings = bench.settings.value;
  const defaults = bench.models.defaults(settings);
  const contextLength = bench.models.contextLength(settings);
  const system = useRef<HTMLTextAreaElement>(null);
  const isChanged = Object.keys(settings).some((name) => name !== "model");
  return (
    <div class="settings">
      <p class="sheet-note">For this conversation. What you leave alone is as the model’s bundle says.</p>
      <div class="setting">
        <span class="setting-name">System prompt</span>
        <GrowingField
          innerRef={system}
          label="System prompt"
          placeholder="How the model should behave, e.g. Answer in short and simple sentences."
          value={settings.system ?? ""}
          onInput={(text) => bench.setSettings({ system: text === "" ? undefined : text })}
        />
      </div>
      <NumberSetting name="temperature" label="Temperature" least={0} most={2} step={0.05} standard={defaults.temperature}
        help="How freely words are chosen. 0 always takes the most likely." />
      <NumberSetting name="top_p" label="Top-p" least={0.05} most={1} step={0.05} standard={defaults.top_p}
        help="Only the most likely tokens that together reach this probability." />
      <NumberSetting name="top_k" label="Top-k" least={0} most={200} step={1} standard={defaults.top_k}
        help="Only this many most likely tokens. 0 is no limit." />
      <NumberSetting name="min_p" label="Min-p" least={0} most={1} step={0.01} standard={defaults.min_p}
        help="Only tokens at least this likely, measured against the likeliest." />
      <NumberSetting name="max_tokens" label="Longest reply" least={1} most={contextLength ?? 4096} step={1}
        standard={longestReply(defaults.max_tokens, contextLength)} placeholder="what fits" help="In tokens." />
      <NumberSetting name="seed" label="Seed" least={0} most={2 ** 31 - 1} step={1} standard={null} placeholder="random"
        help="With a seed, the same question in the same conversation gets the same reply." hasSlider={false} />
      <StopTexts settings={settings} />
      <label class="setting is-switch">
        <input
          type="checkbox"
          checked={settings.keepWhole !== true}
          onChange={(event) => bench.setSettings({ keepWhole: event.currentTarget.checked ? undefined : true })}
        />
        <span>
          <span class="setting-name">When the context is full, leave out the oldest turns</span>
          <span class="setting-help">Otherwise the conversation ends there.</span>
        </span>
      </label>
      <div class="sheet-buttons">
        <button
          type="button"
          class="button"
          disabled={!isChanged}
          onClick={() => {
            bench.setSettings(Object.fromEntries(Object.keys(settings).map((name) => [name, undefined])));
            focusWhenLost(() => document.querySelector<HTMLElement>(".sheet-body"));
          }}
        >
          Back to the model’s defaults
        </button>
        <KeyButton />
      </div>
    </div>
  );
}

/** A default from a bundle may be more than the model can see at once. */
function longestReply(standard: number | null, contextLength: number | null): number | null {
  return standard === null ? null : Math.min(standard, contextLength ?? standard);
}

function StopTexts({ settings }: { settings: Settings }) {
  const bench = useWorkbench();
  const id = useId();
  const stored = settings.stop?.join("\n") ?? "";
  const [typed, setTyped] = useState(stored);
  // A line that was begun and is still empty is in what is typed only; anything else comes from elsewhere.
  const isTyped = stopTexts(typed).join("\n") === stored;
  return (
    <div class="setting">
      <label class="setting-name" for={id}>
        Stop at
      </label>
      <textarea
        id={id}
        rows={2}
        dir="auto"
        placeholder="Texts that end the reply, one a line, four at most"
        value={isTyped ? typed : stored}
        onInput={({ currentTarget: { value } }) => {
          setTyped(value);
          const texts = stopTexts(value);
          bench.setSettings({ stop: texts.length > 0 ? texts : undefined });
        }}
        onBlur={() => setTyped(stored)}
      />
    </div>
  );
}

function stopTexts(typed: string): string[] {
  return typed.split("\n").filter((text) => text !== "").slice(0, 4);
}

function KeyButton() {
  const bench = useWorkbench();
  if (!sessionKey.value && !keptKey.value) {
    return null;
  }
  return (
    <button type="button" class="button" onClick={() => (bench.view.dialog.value = "key")}>
      Change the key
    </button>
  );
}
