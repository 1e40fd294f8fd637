#include "data/manifest.h"

#include "tests/fuzz/targets.h"

void cadre::fuzz::manifest_target(std::string_view input) {
  survive([&] { data::load_manifest(write("manifest.json", input)); });
}
