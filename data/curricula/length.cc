// Short documents before long ones (or the reverse), by tokens; of pairs, of both answers together.
#include "data/corpus.h"
#include "data/curricula/makers.h"
#include "data/curricula/split_curriculum.h"

namespace cadre::data {

std::unique_ptr<Curriculum> make_length(base::Section section, const Corpus* units) {
  const SplitConfig config = read_split(section);
  section.finish();
  if (units == nullptr) return std::make_unique<Curriculum>();
  std::vector<double> length;
  for (int64_t d = 0; d < units->num_documents(); ++d) length.push_back(double(units->document(d).length));
  return std::make_unique<SplitCurriculum>(config, *units, length);
}

}  // namespace cadre::data
