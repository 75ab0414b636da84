/** A conversation that has not begun: which model will answer, and a few things to ask it. */

import { useEffect, useState } from "preact/hooks";
import { useWorkbench } from "../state/workbench";
import { count } from "./figures";
import { Icon } from "./icon";

const MOST_SUGGESTIONS = 6;

export function Beginning() {
  return (
    <div class="transcript" tabIndex={0} role="region" aria-label="New conversation">
      <div class="beginning">
        <div class="beginning-mark" aria-hidden="true">
          <Icon name="anvil" size={34} />
        </div>
        <h1>Say something to your model</h1>
        <WhoAnswers />
        <Suggestions />
        <p class="beginning-hint">
          <Icon name="lens" size={16} /> <b>Look inside</b> shows how sure the model was of every token, and lets you choose
          another.
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
    <ul class="suggestions" aria-label="Suggestions">
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
            Enter the key
          </button>
        ) : (
          "This page goes on trying."
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
          <span>{parameters(model.chatsmith.num_parameters)} parameters ·</span>{" "}
          <span>sees {count(model.chatsmith.context_length)} tokens at once</span>{" "}
          <button type="button" class="link" onClick={() => view.toggleSheet("card")}>
            About the model
          </button>
        </>
      )}
    </p>
  ) : null;
}

/** 6.1 million, 1.2 billion: as a person says it. */
export function parameters(value: number): string {
  for (const [unit, name] of [[1e9, "billion"], [1e6, "million"], [1e3, "thousand"]] as const) {
    if (value >= unit) {
      const amount = value / unit;
      return `${amount < 10 ? amount.toFixed(1) : Math.round(amount)} ${name}`;
    }
  }
  return String(value);
}
