// A mixer whose weights never change: most rows of the table only differ in how they compute them.
#pragma once

#include <utility>

#include "data/mixer.h"

namespace cadre::data {

class StaticMixer : public Mixer {
 public:
  // weights: (K), sum 1. max_epochs: as Mixer has it, 0 for no cap.
  StaticMixer(std::vector<double> weights, double max_epochs)
      : weights_(std::move(weights)), max_epochs_(max_epochs) {}
  std::vector<double> weights(const Progress&) override { return weights_; }
  double max_epochs() const override { return max_epochs_; }

 private:
  std::vector<double> weights_;
  double max_epochs_;
};

// Scales non-negative values, of which one is above 0, to sum 1.
std::vector<double> normalised(std::vector<double> values);

// UniMax's weights (K) for the run's tokens (Chung et al. 2023, arXiv 2304.09151, Alg. 1); throws Error(kUsage) for
// max_epochs when its caps leave too little text for the run.
std::vector<double> unimax_weights(const base::Section& section, const MixerContext& context,
                                   double max_epochs);

// Rows of the table. What each is, with its source, stands in the file of its name.
std::unique_ptr<Mixer> make_natural(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_uniform(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_temperature(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_unimax(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_from_file(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_utilimax(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_gim(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_doge(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_tikmix(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_odm(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_ado(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_doremi(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_aioli(base::Section section, const MixerContext& context);
std::unique_ptr<Mixer> make_learnability(base::Section section, const MixerContext& context);

}  // namespace cadre::data
