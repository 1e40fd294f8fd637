// The table of selectors, and the one that keeps everything.
#include "data/selectors/makers.h"
#include "parallel/base/named_entry.h"

namespace cadre::data {

std::unique_ptr<Selector> make_none_selector(base::Section section) {
  section.finish();
  return std::make_unique<Selector>();
}

const std::vector<base::Entry<SelectorMaker>>& selector_table() {
  static const std::vector<base::Entry<SelectorMaker>> table = {
      {"none", "all documents", make_none_selector},
      {"bands", "a band of perplexity within each domain, {scores, band, keep}", make_bands},
      {"gumbel", "the best by a score, softened by noise, {scores, column, keep, temperature}", make_gumbel},
      {"less", "the most like any target by gradients, {scores, rates, keep}", make_less},
      {"bids", "balanced over targets: the best gain on the most under-served, {scores, keep}", make_bids},
      {"rho1", "tokens that a reference fits better, in every batch, {reference, keep}", make_rho1},
      {"rho_loss", "sequences that a reference fits better, in every batch, {reference, keep}",
       make_rho_loss},
  };
  return table;
}

std::unique_ptr<Selector> make_selector(base::Section section) {
  const std::string name = section.text("name", "none");
  return base::find_entry(selector_table(), "selector", section, name).make(section);
}

}  // namespace cadre::data
