// One rollout as a line of JSON (docs/formats.md), for people and other programs.
#pragma once

#include <string>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "parallel/device/kernels.h"
#include "trainer/rollout/rollout.h"

namespace cadre::trainer {

std::string rollout_line(const Rollout& rollout, const data::Corpus& prompts,
                         const data::Tokenizer& tokenizer, const device::SampleShape& shape);

}  // namespace cadre::trainer
