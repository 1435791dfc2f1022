// @ts-check
// Shows the first line of an error that this pack raised. ComfyUI's own overlay has one sentence for all errors and keeps the text behind
// "View details"; ours says what was found, what was expected and what to do.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OURS = /\bsana_core\.errors\.\w+$/; // whichever node raised it, stock loaders included
const LIFE_MS = 20000;
const BELOW = "sana-error"; // ComfyUI's own overlay is at the top right, where messages appear too

/** @param {string} text */
function showError(text) {
  const toast = app.extensionManager.toast;
  if (toast.error) toast.error("SANA", { description: text });
  else toast.add({ severity: "error", summary: "SANA", detail: text, life: LIFE_MS, styleClass: BELOW }); // frontends up to 1.49
}

app.registerExtension({
  name: "sananative.errorToast",
  setup() {
    const style = document.createElement("style");
    style.textContent = `.${BELOW} { margin-top: 11rem; }`;
    document.head.append(style);
    api.addEventListener("execution_error", ({ detail }) => {
      if (OURS.test(detail.exception_type)) showError(detail.exception_message.trim().split("\n")[0]);
    });
  },
});
