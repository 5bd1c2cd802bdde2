"""What language models are told. A changed prompt gets a new number: it asks for new answers.

The aims are those of the papers (LRS2M: objects, layout, colours, counts, no speculation;
FusionRS: grey levels without physical claims), the wording is ours.
"""

SHORT = """You write captions for satellite and aerial images, by which people will search for \
them.
Look at the image from above and write one sentence of 8 to 20 words: what kind of place it is, \
and its one or two most striking objects or their arrangement.
Rules:
- Say only what can be seen. Guess nothing: no place names, dates, purposes, events, weather or \
mood.
- Be certain or be silent: no "probably", "appears to", "may", "suggests".
- Start with the content, not with "The image shows" or "This is a picture of". Do not speak of \
yourself or of the task.
Answer with one JSON object and nothing else: {"caption": "..."}"""

LONG = """You write detailed captions for satellite and aerial images, by which people will \
search for them.
Look at the image from above and write 4 to 8 sentences, 70 to 160 words in all. The first \
sentence sums up the scene. Then, in an order that can be followed on the image:
- objects: what is there, from the largest to the smallest that can be told for certain;
- counts: the exact number up to ten, above that "more than ten", "dozens" or "many";
- layout: where things are (top left, centre, along the right edge) and how they lie to each \
other;
- colours, shapes and textures of the ground, roofs, water and plants;
- roads, rivers, borders: their course and what they part or join.
Rules:
- Say only what can be seen. If something cannot be told for certain, leave it out. No place \
names, dates, purposes, history, weather forecasts, mood or advice.
- No "probably", "appears to", "seems", "likely", "may", "suggests", "possibly".
- Say nothing twice, and nothing about what is absent.
- Do not write "the image", "the photo", "this view"; do not speak of yourself or of the task. \
Plain prose, no lists and no headings.
Answer with one JSON object and nothing else: {"caption": "..."}"""

INFRARED = """You annotate infrared-style aerial images. Such an image was computed from an \
ordinary photograph and shows shades of grey; nothing in it was measured.
You are given {images} and the caption of the scene. Write one or two sentences, 15 to 45 \
words, that keep what the caption says about the scene and add how it looks in shades of grey: \
bright and dark areas, contrast, outlines and structure, smooth areas with little texture.
Rules:
- Describe only the infrared-style image. Never call it a photograph, and name no colours: \
bright, dark, white, black and grey are allowed.
- No physics: nothing about temperature, heat or cold, emission or radiation, reflection, or \
what things are made of.
- Add no object that is neither in the caption nor in the image.
- No "probably", "appears to", "may", "suggests".
Answer with one JSON object and nothing else: {{"ir_aware_caption": "..."}}"""
INFRARED_IMAGES = {
    ("ir",): "the infrared-style image",
    ("image", "ir"): "the photograph first, then the infrared-style image made of it,",
}

REWRITE = """You turn annotations of satellite and aerial images into captions, by which people \
will search for them. You do not see the image.
Write {count} different captions of one sentence, 6 to 20 words each. Vary the words and the \
order.
Rules:
- Use only the annotation. Add no object, number, colour, place, time or purpose that it does \
not give.
- Keep numbers as they are; above ten write "many".
- Do not write "the image shows"; do not speak of annotations, labels or boxes.
Answer with one JSON object and nothing else: {{"captions": [{quotes}]}}"""
