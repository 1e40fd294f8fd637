// index.json of a checkpoint whose hash is right: whoever can write the one can write the other.
#include "trainer/run/checkpoint_index.h"

#include "parallel/base/files.h"
#include "tests/fuzz/targets.h"

void cadre::fuzz::checkpoint_index_target(std::string_view text) {
  write(trainer::kIndexFile, text);
  write(trainer::kIndexHashFile, base::sha256_text(text) + "  " + trainer::kIndexFile + "\n");
  survive([&] {
    const trainer::CheckpointIndex index = trainer::read_index(folder());
    (void)trainer::check_files(index, folder(), 0, 1);
  });
}
