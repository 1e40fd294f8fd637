#include "trainer/audit/lds_units.h"

#include <algorithm>
#include <numeric>

#include "parallel/base/rng.h"

namespace cadre::audit {

std::vector<Unit> make_units(const data::Corpus& text, int64_t blocks) {
  std::vector<Unit> units(static_cast<size_t>(text.num_domains() * blocks));
  std::vector<int64_t> seen(static_cast<size_t>(text.num_domains()), 0);
  for (const Part& part : whole_documents(text)) {
    const int64_t block = seen[size_t(part.domain)]++ % blocks;
    Unit& unit = units[size_t(part.domain * blocks + block)];
    unit.domain = part.domain;
    unit.parts.push_back(part);
  }
  std::erase_if(units, [](const Unit& unit) { return unit.parts.empty(); });
  return units;
}

std::unique_ptr<data::Corpus> corpus_of(const data::Corpus& text, const std::vector<Unit>& units,
                                        const std::vector<size_t>& members) {
  std::vector<Part> parts;
  for (const size_t u : members) parts.insert(parts.end(), units[u].parts.begin(), units[u].parts.end());
  return make_derived_corpus(text, domain_names(text), std::move(parts));
}

std::vector<size_t> draw_half(size_t units, uint64_t subset) {
  const base::Philox random(base::hash_name("lds halves"));
  std::vector<size_t> order(units);
  std::iota(order.begin(), order.end(), size_t(0));
  for (size_t i = units; i-- > 1;)
    std::swap(order[i], order[size_t(random.uniform(i, subset) * double(i + 1))]);
  order.resize(units / 2);
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<std::vector<size_t>> leave_one_out(size_t units, int64_t count) {
  std::vector<std::vector<size_t>> members;
  for (const int64_t out : spread(int64_t(units), count)) {
    members.emplace_back();
    for (size_t u = 0; u < units; ++u) {
      if (int64_t(u) != out) members.back().push_back(u);
    }
  }
  return members;
}

}  // namespace cadre::audit
