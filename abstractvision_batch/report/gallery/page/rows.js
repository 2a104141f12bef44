/* What a click asks for: ids, files and hashes, in files of some thousand rows that are loaded as scripts, because a
   page that was opened from a disk may not fetch. */

const DETAILS = { loaded: new Map(), waiting: new Map(), kept: 64 };

AVB.takeRows = async (number, packed) => {
  const taken = DETAILS.waiting.get(number);
  DETAILS.waiting.delete(number);
  taken?.(await unpackJson(packed));
};

function loadRows(number) {
  let found = DETAILS.loaded.get(number);
  if (found === undefined) {
    found = new Promise((take, refuse) => {
      DETAILS.waiting.set(number, take);
      const script = document.createElement("script");
      script.src = `data/rows-${String(number).padStart(5, "0")}.js`;
      script.onload = () => script.remove();
      script.onerror = () => refuse(new Error(`${script.src} is not there (avbatch gallery writes it again)`));
      document.head.append(script);
    });
    found.catch(() => DETAILS.loaded.delete(number));
    DETAILS.loaded.set(number, found);
    if (DETAILS.loaded.size > DETAILS.kept) DETAILS.loaded.delete(DETAILS.loaded.keys().next().value);
  }
  return found;
}

async function detailsOf(row) {
  const size = AVB.about.detail_rows;
  const columns = await loadRows(Math.floor(row / size));
  return Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[row % size]]));
}

/* Rows of request ids, by looking through all files. */
async function findRows(ids) {
  const wanted = new Set(ids);
  const found = new Map();
  const size = AVB.about.detail_rows;
  for (let number = 0; number * size < AVB.rows && wanted.size; number += 1) {
    const columns = await loadRows(number);
    columns.request_id.forEach((id, place) => {
      if (wanted.delete(id)) found.set(id, number * size + place);
    });
  }
  return found;
}
