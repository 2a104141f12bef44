/* The picture itself: a file beside the page, or a part of a container (a tar or a Parquet file), which is asked for by
   its range; of a page that was opened from a disk, the person has to open the run's folder first. */

const PICTURE = { folder: null, url: null };

async function pictureUrl(details) {
  if (PICTURE.url) URL.revokeObjectURL(PICTURE.url);
  PICTURE.url = null;
  if (details.offset_bytes === null || details.offset_bytes === undefined) {
    return `../${details.file_name.split("/").map(encodeURIComponent).join("/")}`;
  }
  const bytes = await readPart(details.file_name, Number(details.offset_bytes), Number(details.size_bytes));
  PICTURE.url = URL.createObjectURL(new Blob([bytes], { type: details.content_type }));
  return PICTURE.url;
}

async function readPart(name, start, size) {
  if (location.protocol === "file:") {
    const file = PICTURE.folder?.find(({ webkitRelativePath: path }) => path.endsWith(`/${name}`));
    if (!file) throw new Error("Pictures of this run lie in containers: open its folder with About → Open the run's folder.");
    return file.slice(start, start + size);
  }
  const answer = await fetch(`../${name}`, { headers: { Range: `bytes=${start}-${start + size - 1}` } });
  if (!answer.ok) throw new Error(`${name}: the server answers ${answer.status}`);
  const data = await answer.arrayBuffer();
  return answer.status === 206 ? data : data.slice(start, start + size); // some servers send the whole file
}

function makeMedium(details, url) {
  const video = details.content_type?.startsWith("video/");
  const medium = document.createElement(video ? "video" : "img");
  if (video) {
    Object.assign(medium, { controls: true, loop: true, muted: true, autoplay: true });
  } else {
    medium.alt = "The generated picture";
    medium.addEventListener("load", () => medium.classList.toggle("small", medium.naturalWidth < 300));
  }
  medium.src = url;
  return medium;
}

/* An edit's input, and its mask over the input: what can be looked at in place of the result. */
function viewsOf(details) {
  const { image_preview: image, mask_preview: mask } = details;
  const views = [];
  if (image) views.push(["Input", () => [previewImage(image, "The input image")]]);
  if (image && mask) {
    views.push(["Mask", () => [previewImage(image, "The input image"), previewImage(mask, "The mask", "mask")]]);
  }
  return views;
}

function previewImage(name, text, kind = "") {
  const image = new Image();
  image.alt = text;
  image.className = kind;
  image.src = `inputs/${name}`;
  return image;
}
