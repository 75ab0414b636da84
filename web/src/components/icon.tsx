/** Line drawings of 24 by 24, in the colour of the text beside them. They say nothing to a screen reader. */

const DRAWINGS = {
  anvil:
    "M8.5 6.2h13v2.9c-2.6.3-4.6 1.4-5.6 3.1-.7 1.3-.3 2.7 1 3.6l1.6.3v2.4H6.3v-2.4l1.6-.3c1.6-1 2-2.6 1.3-3.9C5.7 11.7 3 10 2 7.4h6.5z",
  branch: "M7 8.5v7M7 15.5c0-4 10-2.5 10-7M7 8.5a2.25 2.25 0 1 0 0-4.5 2.25 2.25 0 0 0 0 4.5zM7 20a2.25 2.25 0 1 0 0-4.5A2.25 2.25 0 0 0 7 20zM17 8.5A2.25 2.25 0 1 0 17 4a2.25 2.25 0 0 0 0 4.5z",
  calculator: "M7.5 3h9A2.5 2.5 0 0 1 19 5.5v13a2.5 2.5 0 0 1-2.5 2.5h-9A2.5 2.5 0 0 1 5 18.5v-13A2.5 2.5 0 0 1 7.5 3zM8.5 7.5h7M8.7 12h.01M12 12h.01M15.3 12h.01M8.7 16.2h.01M12 16.2h.01M15.3 16.2h.01",
  check: "M5 12.5l4.5 4.5L19 7.5",
  clock: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM12 7.5V12l3 2",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M11 8.5h7a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2h-7a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2zM5.5 15.5A1.8 1.8 0 0 1 4 13.7V6.5a2 2 0 0 1 2-2h7.2c.9 0 1.6.6 1.8 1.4",
  down: "M6 9.5l6 6 6-6",
  download: "M12 4v11M7.5 10.8L12 15.3l4.5-4.5M5 19.5h14",
  edit: "M4.5 19.5l1-4.3L16 4.7a1.9 1.9 0 0 1 2.7 0l.6.6a1.9 1.9 0 0 1 0 2.7L8.8 18.5z",
  forward: "M5 12h13M12.5 6.5L18 12l-5.5 5.5",
  key: "M14.5 13.5a5 5 0 1 0-4.4-2.6L4 17v3h3.5v-2.4H10v-2.4l1.6-1.6c.8.6 1.8.9 2.9.9zM15.8 8.2h.01",
  keyboard: "M5 6.5h14a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2zM7 10.2h.01M10.3 10.2h.01M13.6 10.2h.01M17 10.2h.01M8 14h8",
  left: "M14.5 6l-6 6 6 6",
  lens: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.3 15.3l5 5M8 12.3v-1.6M10.5 12.3V8.2M13 12.3v-2.8",
  monitor: "M5 4.5h14a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2v-8a2 2 0 0 1 2-2zM9 20h6M12 16.5V20",
  moon: "M19.5 14.2A8 8 0 0 1 9.8 4.5a8 8 0 1 0 9.7 9.7z",
  more: "M5.5 12h.01M12 12h.01M18.5 12h.01",
  pen: "M12.5 5H7a2.5 2.5 0 0 0-2.5 2.5V17A2.5 2.5 0 0 0 7 19.5h9.5A2.5 2.5 0 0 0 19 17v-5.5M18.2 4.1a1.7 1.7 0 0 1 2.4 2.4l-7.3 7.3-3.1.7.7-3.1z",
  plug: "M9 3.5V8M15 3.5V8M6.5 8h11v3a5.5 5.5 0 0 1-11 0zM12 16.5v4",
  prompt: "M8.5 4.5H7a2 2 0 0 0-2 2v3.3c0 1-.7 1.9-1.7 2.2 1 .3 1.7 1.2 1.7 2.2v3.3a2 2 0 0 0 2 2h1.5M15.5 4.5H17a2 2 0 0 1 2 2v3.3c0 1 .7 1.9 1.7 2.2-1 .3-1.7 1.2-1.7 2.2v3.3a2 2 0 0 1-2 2h-1.5M9.5 12h.01M12 12h.01M14.5 12h.01",
  redo: "M19.5 11.5a7.5 7.5 0 1 0-1.3 4.8M19.7 5.5v6h-6",
  right: "M9.5 6l6 6-6 6",
  search: "M10.8 17.1a6.3 6.3 0 1 0 0-12.6 6.3 6.3 0 0 0 0 12.6zM15.5 15.5L20 20",
  send: "M12 19V5.5M6 11.3l6-6 6 6",
  sidebar: "M6 4.5h12a3 3 0 0 1 3 3v9a3 3 0 0 1-3 3H6a3 3 0 0 1-3-3v-9a3 3 0 0 1 3-3zM9.5 4.5v15",
  sliders: "M4 7.5h8.5M17.5 7.5H20M4 16.5h2.5M11.5 16.5H20M15 10a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM9 19a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5z",
  stop: "M8.5 7h7A1.5 1.5 0 0 1 17 8.5v7a1.5 1.5 0 0 1-1.5 1.5h-7A1.5 1.5 0 0 1 7 15.5v-7A1.5 1.5 0 0 1 8.5 7z",
  sun: "M12 16.2a4.2 4.2 0 1 0 0-8.4 4.2 4.2 0 0 0 0 8.4zM12 2.8v1.7M12 19.5v1.7M2.8 12h1.7M19.5 12h1.7M5.5 5.5l1.2 1.2M17.3 17.3l1.2 1.2M18.5 5.5l-1.2 1.2M6.7 17.3l-1.2 1.2",
  reset: "M9 6.5L4.5 11 9 15.5M5 11h9.5a4.5 4.5 0 0 1 0 9H11",
  trash: "M4.5 7h15M9.5 7V5.5a1 1 0 0 1 1-1h3a1 1 0 0 1 1 1V7M6.5 7l.8 11a2 2 0 0 0 2 1.8h5.4a2 2 0 0 0 2-1.8l.8-11M10.3 11v5M13.7 11v5",
  upload: "M12 15.5v-11M7.5 8.8L12 4.3l4.5 4.5M5 19.5h14",
  warning: "M12 4.5l8.5 14.8h-17zM12 10.5v4M12 17h.01",
} as const;

export type IconName = keyof typeof DRAWINGS;

const FILLED: ReadonlySet<IconName> = new Set(["anvil", "stop"]);

export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  const isFilled = FILLED.has(name);
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path
        d={DRAWINGS[name]}
        fill={isFilled ? "currentColor" : "none"}
        stroke="currentColor"
        stroke-width={isFilled ? 1.2 : name === "more" ? 2.6 : 1.7}
        stroke-linecap="round"
        stroke-linejoin="round"
      />
    </svg>
  );
}
