// FRAME (arXiv 2502.05551): quadrants of perplexity and of perplexity difference, cut at a domain's medians. High
// perplexity comes before low, a low difference before a high one; the two quadrants of which only one holds share the
// middle.
#include "data/curricula/makers.h"
#include "data/curricula/perplexity.h"
#include "data/curricula/split_curriculum.h"
#include "data/curricula/staged_curriculum.h"

namespace cadre::data {

std::unique_ptr<Curriculum> make_frame(base::Section section, const Corpus* units) {
  const ReferencePair references = read_references(section);
  const double sharpness = section.number("sharpness", 3, {.max = 100, .above = 0});
  const bool reversed = section.boolean("reversed", false);
  section.finish();
  if (units == nullptr) return std::make_unique<Curriculum>();
  const PerplexityScores scores = perplexity_scores(references, *units);
  const std::vector<uint8_t> low_loss = above_cut(*units, scores.loss, 0.5, true),
                             high_difference = above_cut(*units, scores.difference, 0.5, false);
  std::vector<uint8_t> bucket;
  for (size_t d = 0; d < low_loss.size(); ++d)
    bucket.push_back(uint8_t(2 * low_loss[d] + high_difference[d]));
  std::vector<double> time = {0, 0.5, 0.5, 1};
  if (reversed) time = {1, 0.5, 0.5, 0};
  return std::make_unique<StagedCurriculum>(*units, std::move(bucket), time, sharpness);
}

}  // namespace cadre::data
