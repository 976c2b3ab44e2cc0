// The place in a recording: where it plays, and jumping there from the timeline.
(() => {
  const player = () => document.querySelector("#recording audio");
  const picture = () => document.querySelector("#answer .ser-picture");

  const follow = () => {
    const audio = player(), shown = picture();
    if (!audio || !shown) return;
    const cursor = shown.querySelector(".ser-cursor"), length = Number(shown.dataset.duration);
    cursor.hidden = !(length > 0);
    cursor.style.left = `${Math.min(100, (100 * audio.currentTime) / length)}%`;
    const jumps = [...document.querySelectorAll("#answer .ser-jump")];
    const now = jumps.filter((one) => Number(one.dataset.start) <= audio.currentTime + 0.01).pop();
    for (const one of jumps) one.setAttribute("aria-current", String(one === now));
  };

  const seek = (second) => {
    const audio = player();
    if (!audio) return;
    audio.currentTime = second;
    audio.play().catch(() => {}); // a browser may want a gesture first; the place is set all the same
    follow();
  };

  for (const event of ["timeupdate", "seeked", "play", "loadedmetadata"])
    document.addEventListener(event, (happened) => happened.target === player() && follow(), true);

  document.addEventListener("click", (event) => {
    const part = event.target.closest("#answer [data-start]");
    if (part) return seek(Number(part.dataset.start));
    const shown = event.target.closest("#answer .ser-picture");
    if (!shown) return;
    const box = shown.getBoundingClientRect();
    seek((Number(shown.dataset.duration) * (event.clientX - box.left)) / box.width);
  });
})();

// Gradio's recording field takes what the browser calls audio. Browsers call webm, mp4 and 3gp
// video, and have no name for caf or mka. The app decides by the content, so all come as audio.
(() => {
  const field = (event) => event.target.closest?.("#recording")?.querySelector("input[type=file]");
  const named = (file) => file.type.startsWith("audio/");

  const asAudio = (files) => {
    const taken = new DataTransfer();
    for (const file of files)
      taken.items.add(named(file) ? file : new File([file], file.name, { type: "audio/x-recording" }));
    return taken.files;
  };

  document.addEventListener("click", (event) => {
    if (event.target !== field(event)) return;
    event.target.accept = "audio/*,video/*,ENDINGS"; // the server puts those in that it reads
  }, true);

  document.addEventListener("change", (event) => {
    if (event.target === field(event) && ![...event.target.files].every(named))
      event.target.files = asAudio(event.target.files);
  }, true);

  document.addEventListener("drop", (event) => {
    const input = field(event), files = [...(event.dataTransfer?.files ?? [])];
    if (!input || files.every(named)) return;
    event.preventDefault();
    event.stopPropagation();
    input.files = asAudio(files);
    input.dispatchEvent(new Event("change"));
  }, true);
})();
