/** A conversation that has not begun: which model will answer, and a few things to ask it. */

import { useEffect, useState } from "preact/hooks";
import { t } from "../messages/language";
import { useWorkbench } from "../state/workbench";
import { Icon } from "./icon";

const MOST_SUGGESTIONS = 6;

export function Beginning() {
  return (
    <div class="transcript" tabIndex={0} role="region" aria-label={t.beginning.label}>
      <div class="beginning">
        <div class="beginning-mark" aria-hidden="true">
          <Icon name="anvil" size={34} />
        </div>
        <h1>{t.beginning.title}</h1>
        <WhoAnswers />
        <Suggestions />
        <p class="beginning-hint">
          <Icon name="lens" size={16} /> <b>{t.beginning.hintLabel}</b>
          {t.beginning.hint}
        </p>
      </div>
    </div>
  );
}

/** What the bundle suggests to ask its model. */
function Suggestions() {
  const bench = useWorkbench();
  const model = bench.models.chosen(bench.settings.value)?.id;
  const [suggestions, setSuggestions] = useState<readonly string[]>([]);
  useEffect(() => {
    let isGone = false;
    setSuggestions([]);
    if (model !== undefined) {
      void bench.models.card(model).then((card) => isGone || setSuggestions(card.suggestions.slice(0, MOST_SUGGESTIONS)));
    }
    return () => void (isGone = true);
  }, [model]);
  return suggestions.length === 0 ? null : (
    <ul class="suggestions" aria-label={t.beginning.suggestions}>
      {suggestions.map((text) => (
        <li key={text}>
          <button type="button" dir="auto" onClick={() => bench.send(text)}>
            {text}
          </button>
        </li>
      ))}
    </ul>
  );
}

/** The model; while there is none to talk to, why, and what to do. */
function WhoAnswers() {
  const { models, settings, view } = useWorkbench();
  const model = models.chosen(settings.value);
  if (models.connection.value === "connecting") {
    return null;
  }
  if (!models.isReady.value) {
    return (
      <p class="beginning-model">
        {models.complaint.value}{" "}
        {models.connection.value === "key" ? (
          <button type="button" class="button" onClick={() => (view.dialog.value = "key")}>
            {t.beginning.enterKey}
          </button>
        ) : (
          t.beginning.goesOnTrying
        )}
      </p>
    );
  }
  return model ? (
    <p class="beginning-model">
      <strong>{model.id}</strong>
      {model.chatsmith && (
        <>
          {" · "}
          <span>{t.beginning.parameters(t.format.large(model.chatsmith.num_parameters))}</span>{" "}
          <span>{t.beginning.sees(model.chatsmith.context_length)}</span>{" · "}
          <button type="button" class="link" onClick={() => view.toggleSheet("card")}>
            {t.beginning.about}
          </button>
        </>
      )}
    </p>
  ) : null;
}
