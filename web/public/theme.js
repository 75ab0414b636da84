// Runs before the first paint, so that a dark page does not flash up light. The page's policy forbids inline scripts.
try {
  const theme = localStorage.getItem("chatsmith-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's theme holds.
}
