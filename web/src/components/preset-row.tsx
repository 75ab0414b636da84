/** Settings under a name: taken over, saved, deleted, and made what new conversations begin with. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { t } from "../messages/language";
import { focusWhenLost } from "../state/focus";
import { deletePreset, LONGEST_NAME, presetOf, presets, savePreset, setStandard, standardSettings } from "../state/presets";
import { useWorkbench } from "../state/workbench";
import { Icon } from "./icon";
import { Menu, type MenuItem } from "./menu";

export function PresetRow() {
  const bench = useWorkbench();
  const [isNaming, setIsNaming] = useState(false);
  const settings = bench.settings.value;
  const all = presets();
  const chosen = presetOf(settings);
  const hasStandard = Object.keys(standardSettings()).length > 0;
  const isChanged = Object.keys(settings).some((name) => name !== "model");

  function saved(name: string) {
    setIsNaming(false);
    if (name.trim() !== "") {
      savePreset(name, settings);
      bench.view.tell({ text: t.presets.saved(name.trim()) });
    }
    focusWhenLost(() => document.querySelector<HTMLElement>(".presets .menu-button"));
  }

  if (isNaming) {
    return <NameField onDone={saved} />;
  }
  const items: MenuItem[] = [
    ...(isChanged
      ? [
          { icon: "download", label: t.presets.save, run: () => setIsNaming(true) } as const,
          {
            icon: "check",
            label: t.presets.useForNew,
            run: () => {
              setStandard(settings);
              bench.view.tell({ text: t.presets.usedForNew });
            },
          } as const,
        ]
      : []),
    ...(hasStandard
      ? [
          {
            icon: "reset",
            label: t.presets.asModel,
            run: () => {
              setStandard({});
              bench.view.tell({ text: t.presets.asModelNow });
            },
          } as const,
        ]
      : []),
    ...(chosen === null
      ? []
      : [
          {
            icon: "trash",
            label: t.presets.delete,
            isDangerous: true,
            run: () => {
              deletePreset(chosen);
              focusWhenLost(() => document.querySelector<HTMLElement>(".sheet-body"));
            },
          } as const,
        ]),
  ];
  if (items.length === 0 && all.size === 0) {
    return null; // nothing to save, nothing to choose
  }
  return (
    <div class="setting presets">
      <span class="setting-name">{t.presets.preset}</span>
      {all.size > 0 && (
        <label class="select-box">
          <select
            aria-label={t.presets.preset}
            value={chosen ?? ""}
            onChange={(event) => {
              const preset = all.get(event.currentTarget.value);
              if (preset) {
                bench.replaceSettings(preset);
              }
            }}
          >
            <option value="">{chosen === null ? t.presets.none : "–"}</option>
            {[...all.keys()].map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
          <Icon name="down" size={14} />
        </label>
      )}
      {items.length > 0 && <Menu label={t.presets.presets} items={items} />}
    </div>
  );
}

function NameField({ onDone }: { onDone: (name: string) => void }) {
  const field = useRef<HTMLInputElement>(null);
  const [name, setName] = useState("");
  useLayoutEffect(() => field.current?.focus(), []);
  return (
    <div class="setting presets">
      <input
        ref={field}
        dir="auto"
        maxLength={LONGEST_NAME}
        placeholder={t.presets.name}
        aria-label={t.presets.nameLabel}
        value={name}
        onInput={(event) => setName(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter") {
            event.preventDefault();
            onDone(name);
          } else if (event.key === "Escape") {
            event.stopPropagation();
            onDone("");
          }
        }}
      />
      <button type="button" class="button" disabled={name.trim() === ""} onClick={() => onDone(name)}>
        {t.common.save}
      </button>
      <button type="button" class="button" onClick={() => onDone("")}>
        {t.common.cancel}
      </button>
    </div>
  );
}
