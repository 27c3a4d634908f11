// Tells the terminal's script, which reads both when everything is loaded, where to connect and how large to write.
"use strict";

const terminal = document.getElementById("terminal");
const address = new URL("ws", window.location.href);
address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
address.search = address.hash = "";
terminal.dataset.sessionWebsocketUrl = address.href;

const size = Number(new URLSearchParams(window.location.search).get("fontsize"));
if (size >= 6 && size <= 60) {
  terminal.dataset.fontSize = String(size);
}

// Keys go to the terminal without a click on it first: once there is somebody to tell that it has the focus.
new MutationObserver((changes, observer) => {
  if (document.body.classList.contains("-loaded")) {
    observer.disconnect();
    document.querySelector(".xterm-helper-textarea")?.focus();
  }
}).observe(document.body, { attributeFilter: ["class"] });
