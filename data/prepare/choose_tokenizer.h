// Pass 3: the tokenizer, trained on a sample of the training documents or given by the user.
#pragma once

#include <memory>

#include "data/prepare/work.h"
#include "data/tokenizer.h"

namespace cadre::data {

// Collective; every rank gets the same tokenizer, from the file that rank 0 wrote.
std::unique_ptr<Tokenizer> choose_tokenizer(const Work& work);

}  // namespace cadre::data
