// @ts-check
// Shows the first line of an error that this pack raised. ComfyUI's own overlay has one sentence for all errors and keeps the text behind
// "View details"; ours says what was found, what was expected and what to do.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OURS = /\bsana_core\.errors\.\w+$/; // whichever node raised it, stock loaders included
const LIFE_MS = 20000;
const MESSAGE = "sana-error"; // class of ours
const BELOW = "11rem"; // ComfyUI's own overlay is at the top right, where messages appear too

/** @param {string} text */
function showError(text) {
  const toast = app.extensionManager.toast;
  if (toast.error) return toast.error("SANA", { description: text });
  toast.add({ severity: "error", summary: "SANA", detail: text, life: LIFE_MS, styleClass: MESSAGE }); // frontends up to 1.49
  setTimeout(() => {
    for (const message of document.getElementsByClassName(MESSAGE)) message.style.marginTop = BELOW;
  }, 50);
}

app.registerExtension({
  name: "sananative.errorToast",
  setup() {
    api.addEventListener("execution_error", ({ detail }) => {
      if (OURS.test(detail.exception_type)) showError(detail.exception_message.trim().split("\n")[0]);
    });
  },
});
