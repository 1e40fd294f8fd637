// The end of prepare: finished files get their final names, the manifest last.
#pragma once

#include "data/manifest.h"
#include "data/prepare/report.h"
#include "data/prepare/work.h"
#include "data/tokenizer.h"

namespace cadre::data {

// Rank 0. Removes what an older run left under these names, and at the end the work folder.
void publish(const Work& work, const Tokenizer& tokenizer, const Report& report, const Manifest& manifest);

}  // namespace cadre::data
