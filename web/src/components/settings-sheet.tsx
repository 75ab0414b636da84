/** How this conversation is held: what the model is told beforehand, and how its words are chosen. */

import type { ComponentChildren } from "preact";
import { useId, useRef, useState } from "preact/hooks";
import { wrongInBiases, wrongInSchema, wrongInTools } from "../conversation/entries";
import type { Settings } from "../conversation/message";
import { focusWhenLost } from "../state/focus";
import { useWorkbench } from "../state/workbench";
import { keptKey, sessionKey } from "../storage/preferences";
import { GrowingField } from "./growing-field";
import { Icon } from "./icon";
import { NumberSetting } from "./number-setting";
import { PresetRow } from "./preset-row";
import { TextSetting } from "./text-setting";

export function SettingsSheet() {
  const bench = useWorkbench();
  const settings = bench.settings.value;
  const defaults = bench.models.defaults(settings);
  const contextLength = bench.models.contextLength(settings);
  const system = useRef<HTMLTextAreaElement>(null);
  const isChanged = Object.keys(settings).some((name) => name !== "model");
  return (
    <div class="settings">
      <p class="sheet-note">For this conversation. What you leave alone is as the{" "}
        <button type="button" class="link" onClick={() => (bench.view.sheet.value = "card")}>
          model’s bundle
        </button>{" "}
        says.</p>
      <PresetRow />
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
      <Group title="Side by side" isSet={settings.replies !== undefined || settings.beside !== undefined}>
        <NumberSetting name="replies" label="Replies at once" least={1} most={4} step={1} standard={1} hasSlider={false}
          help="Several replies to each message, side by side. You choose which to go on from." />
        <OtherModels settings={settings} />
      </Group>
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
      <Group
        title="Penalties and biases"
        isSet={[settings.frequency_penalty, settings.presence_penalty, settings.repetition_penalty, settings.bias].some(
          (value) => value !== undefined,
        )}
      >
        <NumberSetting name="repetition_penalty" label="Repetition penalty" least={0.5} most={2} step={0.05} standard={1}
          hasSlider={false} help="Above 1, tokens that were there already are less likely." />
        <NumberSetting name="frequency_penalty" label="Frequency penalty" least={-2} most={2} step={0.1} standard={0}
          hasSlider={false} help="The more often a token was in the reply, the less likely it is." />
        <NumberSetting name="presence_penalty" label="Presence penalty" least={-2} most={2} step={0.1} standard={0}
          hasSlider={false} help="Tokens that were in the reply are less likely, however often." />
        <TextSetting name="bias" label="Logit bias" placeholder={"512 -100\n87 5"} wrongIn={wrongInBiases}
          help="A line each: the id of a token, as Look inside shows it, and what is added to its score. −100 forbids it." />
      </Group>
      <Group title="Form and tools" isSet={settings.schema !== undefined || settings.tools !== undefined || settings.raw === true}>
        <TextSetting name="schema" label="JSON schema" wrongIn={wrongInSchema}
          placeholder={'{"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}'}
          help="Replies are JSON that obeys it. {} is any JSON object." />
        <TextSetting name="tools" label="Tools" wrongIn={wrongInTools}
          placeholder={'[{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]'}
          help="Functions as OpenAI’s API has them. The model calls them, you write what they answer." />
        <label class="setting is-switch">
          <input
            type="checkbox"
            checked={settings.raw === true}
            onChange={(event) => bench.setSettings({ raw: event.currentTarget.checked || undefined })}
          />
          <span>
            <span class="setting-name">Go on from the text itself</span>
            <span class="setting-help">
              No conversation: the model continues what you write, as one that was only pretrained can. A line break or space
              at its beginning or end counts.
            </span>
          </span>
        </label>
      </Group>
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
            bench.replaceSettings({});
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

/** Settings that few need, out of the way of the others until they are set. */
function Group({ title, isSet, children }: { title: string; isSet: boolean; children: ComponentChildren }) {
  const wasSet = useRef(isSet).current; // what is opened or closed by hand stays so
  return (
    <details class={`setting-group ${isSet ? "is-set" : ""}`} open={wasSet}>
      <summary>
        {title}
        <Icon name="down" size={16} />
      </summary>
      {children}
    </details>
  );
}

/** The models beside the conversation's own, each to answer as well or not. */
function OtherModels({ settings }: { settings: Settings }) {
  const bench = useWorkbench();
  const chosen = bench.models.chosen(settings)?.id;
  const others = bench.models.all.value.map(({ id }) => id).filter((id) => id !== chosen);
  const beside = settings.beside ?? [];
  if (others.length === 0) {
    return (
      <p class="setting-help">
        Models, and stages of a run, stand side by side where the server has several: <code>chatsmith serve</code>{" "}
        <code>--model base=runs/mine/pretrain</code> <code>--model chat=runs/mine/sft</code>.
      </p>
    );
  }
  return (
    <fieldset class="setting">
      <legend class="setting-name">These answer, too</legend>
      {others.map((id) => (
        <label key={id} class="check">
          <input
            type="checkbox"
            checked={beside.includes(id)}
            onChange={(event) => {
              const kept = beside.filter((other) => other !== id);
              const all = event.currentTarget.checked ? [...kept, id] : kept;
              bench.setSettings({ beside: all.length > 0 ? all : undefined });
            }}
          />
          {id}
        </label>
      ))}
    </fieldset>
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
