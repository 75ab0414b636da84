/** What the models of a run say to the same prompts, stage by stage, and what reinforcement learning tried. */

import { useState } from "preact/hooks";
import { Icon } from "../components/icon";
import { Asked } from "./asked";
import { Command } from "./command";
import type { Details, Sample, State, Texts } from "./data";
import { named, t } from "../messages/language";
import { capital, short, whole } from "./words";

interface Props {
  details: Details;
  /** Models that one can talk to here, by stage. */
  models: Record<string, string>;
  state: State;
}

const MOST = 5;

export function Samples({ details, models, state }: Props) {
  const samples = details.samples.slice(0, MOST);
  const stages = Object.keys(details.stages).filter((stage) => samples.some(({ replies }) => replies[stage] !== undefined));
  return (
    <>
      {samples.length > 0 && <ByStage samples={samples} stages={stages} model={Object.values(models).at(-1)} />}
      <Written texts={details.texts.filter(({ sample }) => sample)} />
      <Tried texts={details.texts.filter(({ shown }) => shown)} />
      <TalkTo details={details} models={models} run={state.command.replace(/^\S+ \S+ /, "")} />
    </>
  );
}

function ByStage({ samples, stages, model }: { samples: readonly Sample[]; stages: readonly string[]; model: string | undefined }) {
  const [stage, setStage] = useState<string | null>(null);
  const shown = stage ? [stage] : stages;
  return (
    <section class="card">
      <div class="card-head">
        <h2>{t.runs.samePrompts}</h2>
        {stages.length > 1 && (
          <div class="choices" role="group" aria-label={t.runs.stageChoice}>
            {[null, ...stages].map((one) => (
              <button key={one ?? ""} type="button" class="choice" aria-pressed={stage === one} onClick={() => setStage(one)}>
                {one ?? t.runs.sideBySideShort}
              </button>
            ))}
          </div>
        )}
      </div>
      {samples.map((sample) => (
        <article key={sample.section + sample.prompt} class="sample">
          <p class="sample-said">
            <span dir="auto">{sample.prompt}</span>
          </p>
          <div class="sample-replies" style={{ "--columns": shown.length }}>
            {shown.map((one) => sample.replies[one] !== undefined && <Said key={one} stage={one} text={sample.replies[one]} isNamed={stages.length > 1} />)}
          </div>
          <p class="sample-note">
            {sample.expected ? t.runs.expected(sample.section, sample.expected) : sample.section}
          </p>
          {model && <Asked model={model} prompt={sample.prompt} />}
        </article>
      ))}
    </section>
  );
}

const VERDICT = /^\((right|wrong)\) /;

function Said({ stage, text, isNamed }: { stage: string; text: string; isNamed: boolean }) {
  const verdict = VERDICT.exec(text)?.[1];
  return (
    <div class="sample-reply">
      <span class="sample-mark">
        <Icon name="anvil" size={18} />
      </span>
      <div>
        {isNamed && <h3>{stage}</h3>}
        <p dir="auto">{text.replace(VERDICT, "") || <i>{t.runs.nothing}</i>}</p>
        {verdict && <span class={`verdict is-${verdict}`}>{named(t.runs.verdicts, verdict)}</span>}
      </div>
    </div>
  );
}

/** What the model being trained wrote at each evaluation. */
function Written({ texts }: { texts: readonly Texts[] }) {
  const [index, setIndex] = useSlide(texts);
  if (index < 0) {
    return null;
  }
  const { stage, step, sample } = texts[index]!;
  return (
    <section class="card">
      <Slide title={t.runs.writes(stage, whole(step))} texts={texts} index={index} onSlide={setIndex} />
      <div class="sample-reply">
        <span class="sample-mark">
          <Icon name="anvil" size={18} />
        </span>
        <p dir="auto">{sample}</p>
      </div>
    </section>
  );
}

/** Replies of reinforcement learning with their rewards, step by step. */
function Tried({ texts }: { texts: readonly Texts[] }) {
  const [index, setIndex] = useSlide(texts);
  if (index < 0) {
    return null;
  }
  const { step, shown } = texts[index]!;
  return (
    <section class="card">
      <Slide title={t.runs.tried(whole(step))} texts={texts} index={index} onSlide={setIndex} />
      {shown!.map(({ prompt, reply, reward, group }) => (
        <article key={prompt} class="sample">
          <p class="sample-said">
            <span dir="auto">{prompt}</span>
          </p>
          <div class="sample-reply">
            <span class="sample-mark">
              <Icon name="anvil" size={18} />
            </span>
            <div>
              <p dir="auto">{reply}</p>
              <span class="sample-note">
                {t.runs.reward(reward === null ? t.runs.failed : short(reward), t.format.list(group.map((one) => (one === null ? "–" : short(one)))))}
              </span>
            </div>
          </div>
        </article>
      ))}
    </section>
  );
}

/** The text that is shown: the one that was chosen, else always the newest; -1 if there is none. */
function useSlide(texts: readonly Texts[]): [number, (index: number) => void] {
  const [chosen, setChosen] = useState<number | null>(null);
  const last = texts.length - 1;
  return [Math.min(chosen ?? last, last), (index) => setChosen(index === last ? null : index)];
}

interface SlideProps {
  title: string;
  texts: readonly Texts[];
  index: number;
  onSlide: (index: number) => void;
}

function Slide({ title, texts, index, onSlide }: SlideProps) {
  return (
    <div class="card-head">
      <h2>{title}</h2>
      {texts.length > 1 && (
        <input
          type="range"
          class="slider"
          min={0}
          max={texts.length - 1}
          value={index}
          aria-label={t.runs.stepSlider}
          aria-valuetext={t.runs.stepOf(whole(texts[index]!.step))}
          onInput={(event) => onSlide(Number(event.currentTarget.value))}
        />
      )}
    </div>
  );
}

/** How to talk to what there is so far. */
function TalkTo({ details, models, run }: { details: Details; models: Record<string, string>; run: string }) {
  const made = ["pretrain", "mid", "sft", "rl"].flatMap((stage) => [
    ...(details.checkpoints[stage] ?? []).map((step) => `${stage}@${step}`),
    ...(details.done[stage]?.is_done ? [stage] : []),
  ]);
  const [chosen, setChosen] = useState<string | null>(null);
  const stage = chosen ?? made.at(-1);
  if (!stage) {
    return null;
  }
  return (
    <section class="card">
      <div class="card-head">
        <h2>{t.runs.talkTitle}</h2>
        {made.length > 1 && (
          <div class="choices" role="group" aria-label={t.runs.talkChoice}>
            {made.map((one) => (
              <button key={one} type="button" class="choice" aria-pressed={stage === one} onClick={() => setChosen(one)}>
                {one}
              </button>
            ))}
          </div>
        )}
      </div>
      {models[stage] ? (
        <a class="button is-primary" href="./">
          {t.runs.talkHere(models[stage])}
        </a>
      ) : (
        <>
          <p class="sample-note">{t.runs.notServed(capital(stage))}</p>
          <Command text={`chatsmith chat ${run}/${stage}`} />
          <Command text={`chatsmith serve ${run}/${stage}`} />
        </>
      )}
    </section>
  );
}
