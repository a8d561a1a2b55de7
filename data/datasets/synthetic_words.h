// The words and sentence patterns of the synthetic corpus. No word may stand in two lists (the constructor checks
// it).
#pragma once

namespace glia::datasets::synthetic {

struct TopicWords {
  const char *name, *nouns, *verbs, *adjectives;
};

// Verbs are in the past tense: they fit singular and plural.
inline constexpr TopicWords kTopics[] = {
    {"Harbour",
     "harbour anchor ferry trawler lighthouse tide cargo sailor dock rudder hull sail captain reef lagoon buoy "
     "quay "
     "freighter mast keel estuary jetty",
     "sailed moored drifted anchored docked unloaded sank towed navigated",
     "tidal coastal seaworthy briny nautical maritime"},
    {"Kitchen",
     "kitchen oven recipe sauce dough butter chef soup onion pepper bakery flour pastry spoon menu garlic stew "
     "noodle "
     "vinegar pancake broth saucepan",
     "baked simmered seasoned kneaded roasted stirred chopped fried peeled",
     "savoury crispy buttery tender spicy salted"},
    {"Observatory",
     "telescope planet comet galaxy orbit asteroid nebula eclipse astronomer satellite moon meteor crater "
     "supernova "
     "observatory spectrum lens quasar constellation horizon probe parallax",
     "orbited glowed eclipsed observed collided radiated measured vanished rotated",
     "stellar lunar galactic celestial distant luminous"},
    {"Railway",
     "railway locomotive carriage platform signal timetable tunnel conductor viaduct junction passenger ticket "
     "siding "
     "terminus freight sleeper turntable tramway commuter depot buffet gauge",
     "departed derailed shunted boarded rerouted braked electrified coupled arrived",
     "punctual overcrowded narrow underground express delayed"},
    {"Garden",
     "garden orchard hedge tulip compost greenhouse seedling gardener blossom shrub meadow lawn beetle pollen "
     "trellis "
     "pruner bulb wheelbarrow fern nursery mulch perennial",
     "planted bloomed pruned watered sprouted weeded harvested wilted germinated",
     "leafy fragrant thorny evergreen blooming shady"},
    {"Concert hall",
     "orchestra violin melody concerto drummer chorus rehearsal symphony pianist opera encore guitar composer "
     "trumpet "
     "soprano rhythm cellist overture audience ballad quartet harmony",
     "performed composed rehearsed sang tuned conducted applauded strummed improvised",
     "melodic acoustic harmonic orchestral baroque rhythmic"},
    {"Clinic",
     "clinic surgeon vaccine patient nurse symptom therapy fever diagnosis ward antibiotic ambulance pharmacist "
     "bandage "
     "infection physician dosage scalpel allergy heartbeat recovery syringe",
     "diagnosed vaccinated treated recovered prescribed examined healed admitted sneezed",
     "surgical feverish chronic contagious sterile medical"},
    {"Workshop",
     "workshop lathe hammer chisel plywood welder rivet bearing gearbox drill blueprint carpenter toolbox bolt "
     "lever "
     "mechanic solder wrench varnish hinge piston sawmill",
     "welded drilled assembled sanded riveted machined polished measured_out repaired",
     "metallic wooden threaded greasy mechanical hydraulic"},
};

// Nouns that two neighbouring topics share; dealt out in this order.
inline constexpr const char* kAmbiguous =
    "scale pitch current bank deck course plate wave stage board bow crane stock bridge light note key line spring "
    "press seal table switch draft bar track cell stem bed plot tap point pass course_work roll string organ joint "
    "pipe block coat plane file vessel case bench post frame";

inline constexpr const char* kNouns =
    "morning neighbour decision question report crowd meeting letter street winter window afternoon visitor plan "
    "reason village problem story number team owner photograph evening answer corner surprise budget weekend "
    "rumour "
    "stranger promise newspaper office friend mayor building deadline argument summer student";
inline constexpr const char* kVerbs =
    "said noticed explained waited agreed returned discussed believed remembered changed described announced "
    "expected "
    "started finished needed welcomed ignored preferred followed supported doubted promised called";
inline constexpr const char* kAdjectives =
    "new old quiet famous busy careful local early late large small strange popular expensive simple serious "
    "recent "
    "cheerful ordinary careless patient_looking unusual final nervous";
inline constexpr const char* kAdverbs =
    "yesterday again slowly nearly together today often quickly finally almost twice";

// N noun, V verb, A adjective, R adverb, P a made-up name, # a number; anything else is itself. Lower-case words of
// the patterns are in no list.
inline constexpr const char* kTitles[] = {
    "A N V the N",  "N and N V in P", "P V A N",          "The A N of P",      "How the N V P",
    "# N V as N V", "P : the N V",    "No A N for the N", "N V R , P says",    "Why P V the A N",
    "A N , A N",    "The N that V P", "P and the A N",    "Inside the N of P",
};
inline constexpr const char* kSentences[] = {
    "The A N V the N near P .",
    "R , the N V and the N V with it .",
    "\" We V the A N , \" P V , \" and the N V . \"",
    "P V that the N was A .",
    "About # of the N V before the A N V .",
    "When the N V , P V the N R .",
    "It was the A N of P that V the N .",
    "The N , which V in # , is A and A .",
    "Nobody V the N until the A N V .",
    "A N from P V with the N , the N and the A N .",
    "In P the N V R , although its N was A .",
    "The N V # times .",
    "Some A N V .",
};

inline constexpr const char* kOnsets = "b br c d dr f g gr h k l m n p r s st t tr v w z";
inline constexpr const char* kVowels = "a e i o u ai ea io ou";
inline constexpr const char* kCodas = "n r l s nd rk st m ss ck";

}  // namespace glia::datasets::synthetic
