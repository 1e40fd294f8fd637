#include "data/pair_view.h"

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

class PairView final : public Corpus {
 public:
  explicit PairView(const Corpus& pairs) : pairs_(pairs) {}
  int64_t num_documents() const override { return pairs_.num_documents() / 2; }
  // n tokens offer n - 1 positions, of each answer and of the pair.
  DocumentInfo document(int64_t index) const override {
    const DocumentInfo chosen = pairs_.document(2 * index), rejected = pairs_.document(2 * index + 1);
    return {chosen.length + rejected.length - 1, chosen.bytes + rejected.bytes, chosen.domain};
  }
  int num_domains() const override { return pairs_.num_domains(); }
  const std::string& domain_name(int domain) const override { return pairs_.domain_name(domain); }
  void read(int64_t document, int64_t, std::span<int32_t>) const override {
    fail(ExitCode::kData, "pair {} was read as one document", document);
  }
  Scores scores(const std::string& name) const override {
    Scores all = pairs_.scores(name);
    for (std::vector<double>& column : all.values) {
      for (size_t p = 0; 2 * p < column.size(); ++p) column[p] = column[2 * p];
      column.resize(column.size() / 2);
    }
    return all;
  }
  std::string selection() const override { return pairs_.selection(); }

 private:
  const Corpus& pairs_;
};

}  // namespace

std::unique_ptr<Corpus> make_pair_view(const Corpus& pairs, int64_t seq_len) {
  auto view = std::make_unique<PairView>(pairs);
  for (int64_t p = 0; p < view->num_documents(); ++p) {
    const int64_t positions = view->document(p).length - 1;
    require(
        positions <= seq_len, ExitCode::kData,
        "pair {} has {} tokens to read, data.seq_len is {}, and a pair is never cut: raise data.seq_len, or "
        "prepare with --max-tokens {}",
        p, positions, seq_len, seq_len);
  }
  return view;
}

}  // namespace cadre::data
