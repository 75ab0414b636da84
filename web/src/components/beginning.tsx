/** A conversation that has not begun: which model will answer, and a few things to ask it. */

import { useWorkbench } from "../state/workbench";
import { count } from "./figures";
import { Icon } from "./icon";

/** Within reach of a model of a few million parameters that was trained on the kindergarten. */
const SUGGESTIONS: readonly (readonly [string, string])[] = [
  ["Meet", "Hello! Who are you?"],
  ["Reckon", "What is 37 plus 58?"],
  ["Spell", "Spell the word garden."],
  ["Compare", "What is the opposite of day?"],
  ["Listen", "Tell me a story."],
  ["Laugh", "Tell me a joke."],
];

export function Beginning() {
  const bench = useWorkbench();
  return (
    <div class="transcript" tabIndex={0} role="region" aria-label="New conversation">
      <div class="beginning">
        <div class="beginning-mark" aria-hidden="true">
          <Icon name="anvil" size={34} />
        </div>
        <h1>Say something to your model</h1>
        <WhoAnswers />
        <ul class="suggestions" aria-label="Suggestions">
          {SUGGESTIONS.map(([kind, text]) => (
            <li key={text}>
              <button type="button" onClick={() => bench.send(text)}>
                <span>{kind}</span>
                {text}
              </button>
            </li>
          ))}
        </ul>
        <p class="beginning-hint">
          <Icon name="lens" size={16} /> <b>Look inside</b> shows how sure the model was of every token, and lets you choose
          another.
        </p>
      </div>
    </div>
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
          <span>sees {count(model.chatsmith.context_length)} tokens at once</span>
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
