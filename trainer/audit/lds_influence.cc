#include "trainer/audit/lds_influence.h"

#include <optional>

#include "trainer/audit/ekfac.h"
#include "trainer/audit/one_step.h"

namespace cadre::audit {
namespace {

using trainer::Real;

// A backward pass over labels that the model itself draws, seen by `ekfac`.
void backward_sampled(trainer::ModelState& model, Batch& batch, uint64_t seed, Ekfac<Real>& ekfac) {
  batch.targets = sample_labels(model.decoder, batch, seed);
  model.decoder.begin_step();
  model.store.start_grads(model.queue, true);
  model.decoder.forward(batch, true);
  std::vector<Real> dlogp;
  for (const float mask : batch.loss_mask) dlogp.push_back(Real(-mask));
  model.decoder.backward(
      {dlogp.data(), {batch.num_tokens()}}, {}, [](int) {}, &ekfac);
}

// Passes over some of the text, once for the factors and once for the eigenvalues.
Ekfac<Real> fit_ekfac(trainer::TrainState& state, const data::Corpus& text, int64_t count) {
  trainer::ModelState& model = state.model;
  require(!model.config.moe && model.config.data.mask_documents, ExitCode::kUsage,
          "{}: EK-FAC needs a dense model and data.mask_documents: true; set audit.lds.ekfac: false",
          model.config.source);
  const auto corpus =
      make_derived_corpus(text, domain_names(text), passages(text, model.config.data.seq_len));
  const int64_t sequences = model.config.train.micro_batch;
  const trainer::DocumentRows rows(*corpus, spread(corpus->num_documents(), count), model.config.data.seq_len,
                                   true);
  Ekfac<Real> ekfac(model.layout);
  for (const bool factors : {true, false}) {
    for (int64_t i = 0; i < rows.micro_batches(sequences, 1); ++i) {
      Batch batch = rows.micro_batch(i, sequences, 0, 1);
      backward_sampled(model, batch, uint64_t(i), ekfac);
      factors ? ekfac.add_factors(batch) : ekfac.add_eigenvalues(batch);
    }
    if (factors) ekfac.decompose();
  }
  return ekfac;
}

// By method: the direction of each target.
using Directions = std::map<std::string, std::vector<Flat>>;

Directions directions_of(const UnitInfluenceConfig& config, trainer::TrainState& state, OneStep& moment,
                         const std::vector<trainer::InfluenceTarget>& targets) {
  std::optional<Ekfac<Real>> ekfac;
  if (config.ekfac) ekfac.emplace(fit_ekfac(state, *state.dataset.train, config.ekfac_passages));
  Directions directions;
  for (const trainer::InfluenceTarget& target : targets) {
    const Flat g = moment.target_gradient(target);
    directions["optimizer"].push_back(moment.precondition(g));
    if (ekfac) {
      directions["ekfac"].emplace_back(g.size());
      ekfac->solve(g, config.ekfac_damping, directions["ekfac"].back());
    }
    directions["gradient"].push_back(g);
  }
  return directions;
}

}  // namespace

UnitInfluence unit_influence(const UnitInfluenceConfig& config, trainer::TrainState& state,
                             const std::vector<Unit>& units,
                             const std::vector<trainer::InfluenceTarget>& targets) {
  const data::Corpus& text = *state.dataset.train;
  OneStep moment(state, trainer::target_corpus(state.config(), state.dataset), targets.at(0));
  const Directions directions = directions_of(config, state, moment, targets);
  UnitInfluence influence;
  for (const auto& [method, all] : directions) influence[method].resize(all.size());
  for (size_t u = 0; u < units.size(); ++u) {
    const auto own = corpus_of(text, units, {u});
    const auto cut =
        make_derived_corpus(*own, domain_names(text), passages(*own, state.config().data.seq_len));
    const TextGradient g =
        moment.text_gradient(*cut, spread(cut->num_documents(), config.unit_passages), nullptr);
    for (const auto& [method, all] : directions) {
      for (size_t q = 0; q < all.size(); ++q) influence[method][q].push_back(dot(all[q], g.mean));
    }
  }
  return influence;
}

}  // namespace cadre::audit
