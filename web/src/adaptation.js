// Adaptation to the voice of a visitor, as `ser_hf.inference.speaker_adaptation`.

const PRIOR = 4;
const CLUSTERED = 0.3;
const [EVEN, EVEN_WITH_HEAD] = [1, 0.5];
const HEAD_CLIPS = 2;
const [MEAN_CLIPS, SPREAD_CLIPS] = [2, 20];
const [ROUNDS, STEPS, FLOOR] = [40, 10, 1e-3];
const [CENTRE, SHARE, SPREAD] = [2, 2, 3];
export const FEWEST_CLIPS = 5;

export function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

const logSoftmax = (logits) => {
  const most = Math.max(...logits);
  const sum = Math.log(logits.reduce((total, value) => total + Math.exp(value - most), 0)) + most;
  return logits.map((value) => value - sum);
};
const zeros = (rows, columns) => Array.from({ length: rows }, () => new Array(columns).fill(0));
const times = (a, b) =>
  a.map((row) => b[0].map((_, column) => row.reduce((sum, value, k) => sum + value * b[k][column], 0)));
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const mean = (rows) => rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);

/** Solve `matrix @ x = right` for each row of `right`, by elimination with pivots. */
function solve(matrix, right) {
  const size = matrix.length;
  const rows = matrix.map((row, i) => [...row, ...right.map((vector) => vector[i])]);
  for (let column = 0; column < size; column++) {
    let pivot = column;
    for (let row = column + 1; row < size; row++)
      if (Math.abs(rows[row][column]) > Math.abs(rows[pivot][column])) pivot = row;
    [rows[column], rows[pivot]] = [rows[pivot], rows[column]];
    for (let row = 0; row < size; row++) {
      if (row === column) continue;
      const factor = rows[row][column] / rows[column][column];
      if (factor) for (let k = column; k < rows[row].length; k++) rows[row][k] -= factor * rows[column][k];
    }
  }
  return right.map((_, vector) => rows.map((row, i) => row[size + vector] / row[i]));
}

function even(logits) {
  const [clips, labels] = [logits.length, logits[0].length];
  let offset = new Array(labels).fill(0);
  for (let round = 0; round < ROUNDS; round++) {
    const shares = new Array(labels).fill(PRIOR / labels);
    for (const row of logits) softmax(row.map((value, i) => value + offset[i])).forEach((p, i) => (shares[i] += p));
    offset = offset.map(
      (value, i) => value + (Math.log(1 / labels + FLOOR) - Math.log(shares[i] / (clips + PRIOR) + FLOOR)) / 2,
    );
  }
  const middle = offset.reduce((a, b) => a + b, 0) / labels;
  return offset.map((value) => value - middle);
}

function clusters(points, logits, weightOfClusters) {
  const [clips, size] = [points.length, points[0].length];
  const middle = mean(points);
  let memberships = logits.map(softmax);
  let weight, constant;
  for (let step = 0; step < STEPS; step++) {
    const sizes = memberships[0].map((_, k) => memberships.reduce((sum, row) => sum + row[k], 0));
    const centres = sizes.map((count, k) =>
      middle.map(
        (value, d) => (points.reduce((sum, p, n) => sum + memberships[n][k] * p[d], 0) + CENTRE * value) / (count + CENTRE),
      ),
    );
    const covariance = zeros(size, size);
    points.forEach((point, n) =>
      centres.forEach((centre, k) => {
        const residual = point.map((value, d) => value - centre[d]);
        for (let i = 0; i < size; i++)
          for (let j = 0; j < size; j++) covariance[i][j] += (memberships[n][k] * residual[i] * residual[j]) / clips;
      }),
    );
    const trace = covariance.reduce((sum, row, i) => sum + row[i], 0);
    const prior = Math.max(trace / size, FLOOR);
    const shrunken = covariance.map((row, i) =>
      row.map((value, j) => (clips * value + SPREAD * (i === j ? prior : 0)) / (clips + SPREAD)),
    );
    weight = solve(shrunken, centres);
    constant = sizes.map((count, k) => Math.log(count + SHARE) - dot(weight[k], centres[k]) / 2);
    memberships = points.map((point, n) => {
      const scores = logSoftmax(weight.map((row, k) => dot(row, point) + constant[k]));
      const own = logSoftmax(logits[n]);
      return softmax(own.map((value, k) => (1 - weightOfClusters) * value + weightOfClusters * scores[k]));
    });
  }
  return { weight, constant };
}

/** How the logits of a voice are moved: `weight @ logits + offset`. */
export function fit(logits, evenShare = EVEN, clusteredShare = CLUSTERED) {
  const [clips, labels] = [logits.length, logits[0].length];
  const applied = clips / (clips + PRIOR);
  const clustered = clusteredShare * applied;
  const offset = even(logits).map((value) => value * applied * evenShare);
  const centring = zeros(labels, labels).map((row, i) => row.map((_, j) => (i === j ? 1 : 0) - 1 / labels));
  const found = clusters(
    times(logits, centring),
    logits.map((row) => row.map((value, i) => value + offset[i])),
    clustered,
  );
  const centred = times(times(centring, found.weight), centring);
  const weight = centred.map((row, i) => row.map((value, j) => clustered * value + (i === j ? 1 - clustered : 0)));
  const mixed = offset.map((value, i) => (1 - clustered) * value + clustered * found.constant[i]);
  return { weight, offset: centring.map((row) => dot(row, mixed)), embeddingWeight: null, clips };
}

/**
 * The same with the adaptation head of a model, which predicts from standardised embeddings.
 * @param {{weight: number[][], bias: number[], mean: number[], spread: number[]} | null} head
 * @param {number[][]} logits - of clips of one voice
 * @param {number[][]} embeddings - of the same clips
 */
export function fitWithHead(head, logits, embeddings) {
  if (!head) return fit(logits);
  const count = embeddings.length;
  const average = mean(embeddings);
  const [near, spreadNear] = [count / (count + MEAN_CLIPS), count / (count + SPREAD_CLIPS)];
  const centre = average.map((value, i) => near * value + (1 - near) * head.mean[i]);
  const spread = centre.map((value, i) => {
    const variance = embeddings.reduce((sum, row) => sum + (row[i] - value) ** 2, 0) / count;
    return Math.sqrt(spreadNear * variance + (1 - spreadNear) * head.spread[i] ** 2);
  });
  const share = count / (count + HEAD_CLIPS);
  const weight = head.weight.map((row) => row.map((value, i) => (share * value) / spread[i]));
  const bias = weight.map((row, k) => share * head.bias[k] - dot(row, centre));
  const mixed = logits.map((row, n) =>
    row.map((value, k) => (1 - share) * value + dot(weight[k], embeddings[n]) + bias[k]),
  );
  const moving = fit(mixed, EVEN_WITH_HEAD);
  return {
    weight: moving.weight.map((row) => row.map((value) => (1 - share) * value)),
    offset: moving.offset.map((value, i) => value + dot(moving.weight[i], bias)),
    embeddingWeight: times(moving.weight, weight),
    clips: count,
  };
}

/** Logits moved for a voice. */
export function moved(adaptation, logits, embedding) {
  return adaptation.offset.map(
    (value, i) =>
      value +
      dot(adaptation.weight[i], logits) +
      (adaptation.embeddingWeight ? dot(adaptation.embeddingWeight[i], embedding) : 0),
  );
}
