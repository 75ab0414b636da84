/** How this conversation is held: what the model is told beforehand, and how its words are chosen. */

import type { ComponentChildren } from "preact";
import { useId, useRef, useState } from "preact/hooks";
import { wrongInBiases, wrongInSchema, wrongInTools } from "../conversation/entries";
import type { Settings } from "../conversation/message";
import { t } from "../messages/language";
import { focusWhenLost } from "../state/focus";
import { useWorkbench } from "../state/workbench";
import { keptKey, sessionKey } from "../storage/preferences";
import { GrowingField } from "./growing-field";
import { Icon } from "./icon";
import { LanguageChoice } from "./language-choice";
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
  const [before, link, after] = t.settings.note;
  return (
    <div class="settings">
      <p class="sheet-note">{before}
        <button type="button" class="link" onClick={() => (bench.view.sheet.value = "card")}>
          {link}
        </button>
        {after}
      </p>
      <PresetRow />
      <div class="setting">
        <span class="setting-name">{t.settings.systemPrompt}</span>
        <GrowingField
          innerRef={system}
          label={t.settings.systemPrompt}
          placeholder={t.settings.systemPlaceholder}
          value={settings.system ?? ""}
          onInput={(text) => bench.setSettings({ system: text === "" ? undefined : text })}
        />
      </div>
      <Group title={t.settings.sideBySide} isSet={settings.replies !== undefined || settings.beside !== undefined}>
        <NumberSetting name="replies" label={t.settings.replies} least={1} most={4} step={1} standard={1} hasSlider={false}
          help={t.settings.repliesHelp} />
        <OtherModels settings={settings} />
      </Group>
      <NumberSetting name="temperature" label={t.settings.temperature} least={0} most={2} step={0.05} standard={defaults.temperature}
        help={t.settings.temperatureHelp} />
      <NumberSetting name="top_p" label={t.settings.topP} least={0.05} most={1} step={0.05} standard={defaults.top_p}
        help={t.settings.topPHelp} />
      <NumberSetting name="top_k" label={t.settings.topK} least={0} most={200} step={1} standard={defaults.top_k}
        help={t.settings.topKHelp} />
      <NumberSetting name="min_p" label={t.settings.minP} least={0} most={1} step={0.01} standard={defaults.min_p}
        help={t.settings.minPHelp} />
      <NumberSetting name="max_tokens" label={t.settings.longest} least={1} most={contextLength ?? 4096} step={1}
        standard={longestReply(defaults.max_tokens, contextLength)} placeholder={t.settings.longestPlaceholder} help={t.settings.longestHelp} />
      <NumberSetting name="seed" label={t.settings.seed} least={0} most={2 ** 31 - 1} step={1} standard={null} placeholder={t.settings.seedPlaceholder}
        help={t.settings.seedHelp} hasSlider={false} />
      <StopTexts settings={settings} />
      <Group
        title={t.settings.penalties}
        isSet={[settings.frequency_penalty, settings.presence_penalty, settings.repetition_penalty, settings.bias].some(
          (value) => value !== undefined,
        )}
      >
        <NumberSetting name="repetition_penalty" label={t.settings.repetition} least={0.5} most={2} step={0.05} standard={1}
          hasSlider={false} help={t.settings.repetitionHelp} />
        <NumberSetting name="frequency_penalty" label={t.settings.frequency} least={-2} most={2} step={0.1} standard={0}
          hasSlider={false} help={t.settings.frequencyHelp} />
        <NumberSetting name="presence_penalty" label={t.settings.presence} least={-2} most={2} step={0.1} standard={0}
          hasSlider={false} help={t.settings.presenceHelp} />
        <TextSetting name="bias" label={t.settings.bias} placeholder={"512 -100\n87 5"} wrongIn={wrongInBiases}
          help={t.settings.biasHelp} />
      </Group>
      <Group title={t.settings.form} isSet={settings.schema !== undefined || settings.tools !== undefined || settings.raw === true}>
        <TextSetting name="schema" label={t.settings.schema} wrongIn={wrongInSchema}
          placeholder={'{"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}'}
          help={t.settings.schemaHelp} />
        <TextSetting name="tools" label={t.settings.tools} wrongIn={wrongInTools}
          placeholder={'[{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]'}
          help={t.settings.toolsHelp} />
        <label class="setting is-switch">
          <input
            type="checkbox"
            checked={settings.raw === true}
            onChange={(event) => bench.setSettings({ raw: event.currentTarget.checked || undefined })}
          />
          <span>
            <span class="setting-name">{t.settings.raw}</span>
            <span class="setting-help">{t.settings.rawHelp}</span>
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
          <span class="setting-name">{t.settings.leaveOut}</span>
          <span class="setting-help">{t.settings.leaveOutHelp}</span>
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
          {t.settings.toDefaults}
        </button>
        <KeyButton />
      </div>
      <div class="setting page-language">
        <div class="setting-line">
          <span class="setting-name">{t.page.language}</span>
          <LanguageChoice />
        </div>
        <span class="setting-help">{t.page.languageHelp}</span>
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
        {t.settings.noOtherModels} <code>chatsmith serve</code>{" "}
        <code>--model base=runs/mine/pretrain</code> <code>--model chat=runs/mine/sft</code>.
      </p>
    );
  }
  return (
    <fieldset class="setting">
      <legend class="setting-name">{t.settings.otherModels}</legend>
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
        {t.settings.stopAt}
      </label>
      <textarea
        id={id}
        rows={2}
        dir="auto"
        placeholder={t.settings.stopPlaceholder}
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
      {t.key.change}
    </button>
  );
}
