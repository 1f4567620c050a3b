// Runs before the first paint: the page is as light or dark as Airflow's own, which keeps its choice under this key.
const KEY = "theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

function apply(): void {
  let chosen: string | null = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // Storage is switched off: the system's preference it is.
  }
  const isDark = chosen === "dark" || (chosen !== "light" && dark.matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
}

apply();
dark.addEventListener("change", apply);
// Airflow in another tab, or around this page in a frame, has switched.
addEventListener("storage", (event) => {
  if (event.key === KEY || event.key === null) apply();
});
